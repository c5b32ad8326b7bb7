"""The bars of one GPU: a 7 B LLaVA-Vicuna shape, random weights, decode steps against the floor the memory sets.

Floor: the bytes a step has to read (weights and kept keys and values) over the measured memory bandwidth. Everything
runs in one process on one model; the shortest and the longest prompt come first, so that a run cut short has the bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.contenders.case import Case
from benchmarks.contenders.measure import find, measure
from benchmarks.contenders.ours import plan_of
from benchmarks.report import Recorder
from benchmarks.shapes import VICUNA, Shape, build
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.transformers.generate import cache_shape

CONTENDERS = ("sparsemm", "full", "dynamic")


@dataclass(frozen=True)
class Setup:
    """What is measured; the defaults need a GPU of 80 GB and take less than ten minutes there."""

    shape: Shape = VICUNA
    prompts: tuple[int, ...] = (2048, 32_768, 16_384, 8192, 4096)
    compiled_prompts: tuple[int, ...] = (2048, 32_768)
    budget: int = 256
    steps: int = 64
    settle: int = 16
    device: str = "cuda"
    dtype: str = "bfloat16"
    backend: str = "triton"
    graphs: bool = True
    memory_bytes: int = 80 * 10**9
    concurrent_prompt: int = 16_384
    concurrent_answer: int = 256
    copied_bytes: int = 2**31

    def case(self, contender: str, prompt_tokens: int) -> Case:
        return Case(
            contender, self.shape, prompt_tokens, 1, self.budget, self.settle, self.steps, self.device, self.dtype,
            self.backend, self.graphs,
        )  # fmt: skip


def run(*, record: Recorder, setup: Setup | None = None) -> dict[str, Any]:
    setup = setup or Setup()
    if setup.device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError("no GPU that torch can use")
    record.begin("gpu", {**vars(setup), "shape": setup.shape.name})
    bandwidth = copy_bandwidth(setup.device, setup.copied_bytes)
    model = build(setup.shape, getattr(torch, setup.dtype), setup.device)
    weights = step_weights(model)
    row = {"what": "floor", "bytes_per_second": bandwidth, "weights_bytes": weights}
    record.add(row, f"{bandwidth / 1e9:.0f} GB/s, {weights / 1e9:.2f} GB of weights a step")
    rows: list[dict[str, Any]] = []
    plan = [(prompt, name) for prompt in setup.prompts for name in CONTENDERS]
    for prompt, name in [*plan, *((prompt, "static") for prompt in setup.compiled_prompts)]:
        row = {"what": "request", "contender": name, "prompt_tokens": prompt}
        row |= _measured(model, setup.case(name, prompt), weights, bandwidth)
        rows.append(row)
        said = f"{row['token_ms']:.2f} ms, floor {row['floor_ms']:.2f}" if "token_ms" in row else row["missing"]
        record.add(row, f"{prompt:6} tokens  {name:9} {said}")
    for name in ("sparsemm", "full"):
        at = next((r for r in rows if r["contender"] == name and r["prompt_tokens"] == setup.concurrent_prompt), None)
        if at is None or "token_ms" not in at:
            continue
        working = max(0, at["peak_bytes"] - at["before_bytes"] - at["kv_bytes"])
        fit = concurrent(model, setup, name, working)
        rows.append({"what": "concurrent", "method": name, "working_bytes": working, "requests": fit})
        record.add(rows[-1], f"{fit} requests of {setup.concurrent_prompt} tokens fit with {name}")
    return record.end(bars=bars(rows))


def copy_bandwidth(device: str, size: int, repeats: int = 10) -> float:
    """Bytes read and written a second by copying `size` bytes, the median of some."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(2 + repeats):
        _synchronise(device)
        started = perf_counter()
        target.copy_(source)
        _synchronise(device)
        seconds.append(perf_counter() - started)
    return 2 * size / median(seconds[2:])


def step_weights(model: PreTrainedModel) -> int:
    """Bytes of the weights that a decode step reads: all but an embedding of its own, of which it reads a row."""
    embedding = model.get_input_embeddings().weight
    tied = model.config.tie_word_embeddings
    return sum(weight.nbytes for weight in model.parameters() if tied or weight is not embedding)


def concurrent(model: PreTrainedModel, setup: Setup, method: str, working_bytes: int) -> int:
    """How many requests, each to its end, the pool has pages for beside the weights and what one prefill works with."""
    weights = sum(weight.nbytes for weight in model.parameters())
    shape, plan = cache_shape(model), plan_of(model, setup.case(method, setup.concurrent_prompt))
    room = max(0, setup.memory_bytes - weights - working_bytes)
    paging = Paging(shape)
    return room // paging.page_bytes // paging.sequence(plan, setup.concurrent_answer)


def bars(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What is asked of a GPU, from the rows that there are.

    times_floor: at worst, at most 1.3. longest_over_shortest: time of a step, near 1. memory_saved, at least 0.52, and
    faster_than_full, at least 2: at the longest prompt, against `full` under the same graphs. concurrent: requests
    that fit, at least 5 times those of `full`.
    """
    ours, full = (
        {r["prompt_tokens"]: r for r in rows if r.get("contender") == name and "token_ms" in r}
        for name in ("sparsemm", "full")
    )
    found: dict[str, float] = {}
    if ours:
        steps = {prompt: row["token_ms"] for prompt, row in ours.items()}
        found["times_floor"] = max(row["token_ms"] / row["floor_ms"] for row in ours.values())
        found["longest_over_shortest"] = steps[max(steps)] / steps[min(steps)]
    if both := set(ours) & set(full):
        longest = max(both)
        found["memory_saved"] = 1 - ours[longest]["peak_bytes"] / full[longest]["peak_bytes"]
        found["faster_than_full"] = full[longest]["token_ms"] / ours[longest]["token_ms"]
    fit = {row["method"]: row["requests"] for row in rows if row["what"] == "concurrent"}
    if fit.get("full"):
        found["concurrent"] = fit["sparsemm"] / fit["full"]
    return found


def _measured(model: PreTrainedModel, case: Case, weights: int, bandwidth: float) -> dict[str, Any]:
    """A case's figures, or `missing`: why there are none."""
    if case.device.startswith("cuda"):
        torch.compiler.reset()  # what was compiled for another case
        torch.cuda.empty_cache()
    try:
        found = measure(model, case, find(case.contender))
    except torch.OutOfMemoryError as error:
        return {"missing": str(error).splitlines()[0]}
    steps = sorted(found.pop("step_ms"))
    floor = (weights + found["kv_bytes"]) / bandwidth * 1e3
    spread = {"token_ms_q1": steps[len(steps) // 4], "token_ms_q3": steps[(3 * len(steps)) // 4]}
    return {"token_ms": median(steps), **spread, "floor_ms": floor, **found}


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
