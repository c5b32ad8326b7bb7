"""Where the time of a decode step goes on a GPU: matrix products, attention, the rest, and gaps between kernels.

A step is replayed as a CUDA graph, with the layers' own code and compiled. Shapes and budgets are those of
`benchmarks.gpu`; sampling and the engine's books are not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import Setup, make_plan
from benchmarks.random_model import ModelShape, random_model, random_prompt
from benchmarks.report import Recorder
from headmap.engine.graphs import CudaCapture
from headmap.engine.runner import ModelRunner
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.prefill import Prompt

PROMPT = 2048
ATTENTION = ("begin", "attend", "join")
PRODUCTS = ("nvjet", "gemm", "cublas", "splitk", "_mm_", "triton_tem")
REPEATS, PROFILED = 40, 5
_ROOM = 8
"""Room for a sequence's new tokens. Every step here writes to the same place."""


def run(*, record: Recorder, setup: Setup | None = None, prompt: int = PROMPT) -> dict[str, Any]:
    """A row for each shape, batch and kind of layers; milliseconds of one step."""
    setup = setup or Setup()
    record.begin("step-profile", {**vars(setup), "shapes": [shape.name for shape in setup.shapes], "prompt": prompt})
    for shape in setup.shapes:
        _profile(shape, setup, prompt, record)
    return record.end()


def _profile(shape: ModelShape, setup: Setup, prompt: int, record: Recorder) -> None:
    device, most = torch.device(setup.device), max(setup.batches)
    loaded = random_model(shape, setup.torch_dtype, device)
    plan: KeepPlan = make_plan(loaded, shape, "sparsemm", prompt, setup)
    cache = RaggedCache.for_plans([plan] * most, _ROOM, loaded.cache_shape, dtype=setup.torch_dtype, device=device)
    plain, slots = ModelRunner(loaded, cache), []
    for number in range(most):
        slots.append(cache.admit(plan, _ROOM))
        plain.prefill([Prompt(slots[-1], plan)], [random_prompt(loaded, prompt, number)])
    for compiled in (False, True):
        capture = CudaCapture() if device.type == "cuda" else None
        runner = ModelRunner(loaded, cache, capture=capture, compiled=compiled)
        for batch in setup.batches:
            row: dict[str, Any] = {"shape": shape.name, "batch": batch, "compiled": compiled}
            row |= _of_step(runner, slots[:batch], prompt, device)
            told = ", ".join(f"{name} {row[f'{name}_ms']:.2f}" for name in ("step", "products", "attention", "rest"))
            record.add(row, f"{shape.name:18} x {batch} {'compiled' if compiled else 'own code'}  {told} ms")


def _of_step(runner: ModelRunner, slots: Sequence[int], prompt: int, device: torch.device) -> dict[str, float]:
    on_gpu = device.type == "cuda"

    def step() -> None:
        runner.decode(slots, [7] * len(slots), [prompt] * len(slots))
        runner.cache.books.undo(torch.tensor(slots).numpy())
        if on_gpu:
            torch.cuda.synchronize()

    step()
    seconds = []
    for _ in range(REPEATS):
        started = perf_counter()
        step()
        seconds.append(perf_counter() - started)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in range(PROFILED):
            step()
    spent, kernels = defaultdict[str, float](float), 0
    for event in profiled.events() or ():
        if event.device_type.name == device.type.upper():
            spent[kind_of(event.name)] += event.time_range.elapsed_us() / 1e3 / PROFILED
            kernels += 1
    times = {f"{name}_ms": spent[name] for name in ("products", "attention", "rest")}
    return {"step_ms": median(seconds) * 1e3, "kernels": kernels / PROFILED, **times}


def kind_of(kernel: str) -> str:
    """products, attention or rest, by a kernel's name."""
    if kernel in ATTENTION:
        return "attention"
    return "products" if any(part in kernel.lower() for part in PRODUCTS) else "rest"
