"""One case: the time to the first token, the time of each step, the bytes held, the most memory taken."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.contenders.case import Case, Contender
from benchmarks.shapes import Shape, build

WARM_UP_TOKENS = 64
SHOWN_TOKENS = 8
_RESET = Path("/proc/self/clear_refs")
"""Where Linux is told to count a process' peak anew."""
Open = Callable[[PreTrainedModel, Case], Contender]

OURS = ("full", "sparsemm", "snapkv", "pyramidkv", "adakv", "random")
TRANSFORMERS = ("dynamic", "static")
KVPRESS = ("kvpress snapkv", "kvpress adakv")


def find(contender: str) -> Open:
    """What opens a contender by its name. Raises ValueError for an unknown one."""
    if contender in OURS:
        module, name = "ours", "ours"
    elif contender in TRANSFORMERS:
        module, name = "transformers_caches", contender
    elif contender in KVPRESS:
        module, name = "presses", contender.split()[1]
    else:
        raise ValueError(f"contender: {contender!r} is none of {', '.join((*OURS, *TRANSFORMERS, *KVPRESS))}")
    return getattr(import_module(f"benchmarks.contenders.{module}"), name)


def load(case: Case) -> PreTrainedModel:
    """The case's model as its contender runs it."""
    if isinstance(case.model, Shape):
        return build(case.model, case.torch_dtype, case.device)
    if case.contender in OURS:
        return import_module("benchmarks.contenders.ours").load(case.model, case)
    return case.model.load(case.torch_dtype, case.device)


@torch.inference_mode()
def measure(model: PreTrainedModel, case: Case, open_contender: Open) -> dict[str, Any]:
    """Milliseconds and bytes. `tokens`: the first ones generated for the first prompt.

    Peak memory is the device's, or on a CPU the process' resident memory: `before_bytes` before the prompt came
    and `peak_bytes` at its highest afterwards, or where the kernel is no Linux since the process began.
    """
    _warm_up(model, case, open_contender)
    contender = open_contender(model, case)
    prompts = _prompts(case)
    before = _begin_memory(case.device)
    started = perf_counter()
    token = contender.prefill(prompts)
    answer = [token.tolist()[0]]  # reading it on the host waits for the device
    first_token = perf_counter() - started
    kv_bytes, steps = contender.kv_bytes, []
    for number in range(case.settle + case.steps):
        started = perf_counter()
        token = contender.step(token, case.prompt_tokens + number)
        answer.append(token.tolist()[0])
        if number >= case.settle:
            steps.append((perf_counter() - started) * 1e3)
    return {
        "first_token_ms": first_token * 1e3, "step_ms": steps, "kv_bytes": kv_bytes, "before_bytes": before,
        "peak_bytes": _peak_memory(case.device), "tokens": answer[:SHOWN_TOKENS],
    }  # fmt: skip


def _prompts(case: Case) -> dict[str, torch.Tensor]:
    if not isinstance(case.model, Shape):
        return case.model.inputs(case.torch_dtype, case.device)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(0, 1000, (case.batch, case.prompt_tokens), generator=generator)
    return {"input_ids": prompts.to(case.device)}


def _warm_up(model: PreTrainedModel, case: Case, open_contender: Open) -> None:
    short = replace(case, prompt_tokens=WARM_UP_TOKENS, settle=0, steps=2, graphs=False)
    contender = open_contender(model, short)
    zeros = torch.zeros((case.batch, WARM_UP_TOKENS), dtype=torch.int64, device=case.device)
    token = contender.prefill({"input_ids": zeros})
    for number in range(short.steps):
        token = contender.step(token, WARM_UP_TOKENS + number)


def _begin_memory(device: str) -> int:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with suppress(OSError):  # what loading took for a while is no part of a request
        _RESET.write_text("5", encoding="utf-8")
    return _resident_peak()


def _peak_memory(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _resident_peak()


def _resident_peak() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the parent's peak from when this process began
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
