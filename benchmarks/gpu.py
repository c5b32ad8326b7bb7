"""What users get of one GPU: the engine with its defaults, 7 B shapes of random weights, sampling, batches of 1 and 8.

Floor of a step: the bytes it has to read (weights, kept keys and values) over the measured bandwidth of a copy. Needs
torch, transformers and numpy alone: `benchmarks/gpu_session.sh` runs it on a bare machine, part by part.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from threading import Event
from time import perf_counter
from typing import Any, Literal

import torch

from benchmarks.gpu_bars import Row, bars, summary
from benchmarks.random_model import (
    QWEN2_VL_7B,
    TINY_GQA,
    TINY_MHA,
    VICUNA_7B,
    ModelShape,
    random_model,
    random_prompt,
    step_weights,
)
from benchmarks.report import Recorder
from benchmarks.shapes import TINY
from headmap.engine.engine import Engine
from headmap.engine.messages import Cancelled, EngineRequest, Failed, Token
from headmap.engine.messages import Event as EngineEvent
from headmap.engine.sampling.params import SamplingParams
from headmap.errors import HeadmapError, Unavailable
from headmap.families.loading import LoadedModel
from headmap.kvcache.backends.choice import BACKENDS, Tried, choose_backend, make_backend, standard_trial
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.shape import CacheShape

PARTS = ("parity", "sparsemm", "full", "concurrent")
APART = ("kernels", "settings", "profile", "step")
"""Asked for by name: attention by itself, its settings compared, where a step's time goes, and one step for a sanitizer
to watch.
"""


@dataclass(frozen=True)
class Setup:
    """What is measured; the defaults need a GPU of 80 GB.

    prompts: the shortest and the longest come first, so that an interrupted run has the rows for the bars. A row counts
    `steps` steps after `settle` others, once all requests of the batch have begun; it is given up after `row_seconds`.
    """

    shapes: tuple[ModelShape, ...] = (VICUNA_7B, QWEN2_VL_7B)
    prompts: tuple[int, ...] = (2048, 32_768, 16_384, 8192, 4096)
    batches: tuple[int, ...] = (1, 8)
    budget: int = 256
    steps: int = 64
    settle: int = 16
    answer: int = 1024
    row_seconds: float = 120.0
    device: str = "cuda"
    dtype: str = "bfloat16"
    memory_bytes: int = 80 * 10**9
    concurrent_prompt: int = 16_384
    concurrent_answer: int = 256
    copied_bytes: int = 2**31

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


SHORT = Setup(
    shapes=(TINY_MHA, TINY_GQA), prompts=(64, 256), batches=(1, 2), budget=32, steps=3, settle=1, answer=64,
    device="cpu", dtype="float32", memory_bytes=2 * 10**8, concurrent_prompt=256, concurrent_answer=8,
    copied_bytes=2**20,
)  # fmt: skip
"""For a rehearsal on a CPU: the same rows of tiny models."""


@dataclass(frozen=True)
class Defaults:
    """An engine's default settings (`headmap.settings` says what they mean), except its KV memory."""

    kv_memory_bytes: int | None
    session_memory_bytes: int = 2**30
    max_running: int = 32
    max_waiting: int = 128
    max_prefill_tokens: int = 2048
    max_decode_gap_ms: float = 50.0
    max_prompt_tokens: int = 131_072
    decode_backend: str = "auto"
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    compile_layers: Literal["auto", "on", "off"] = "auto"


def run(*, record: Recorder, setup: Setup | None = None, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Rows of the parts asked for, in the order of PARTS; with the bars that they decide.

    Raises RuntimeError where there is no such device.
    """
    setup = setup or Setup()
    if setup.device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError("no GPU that torch can use")
    record.begin("gpu", {**vars(setup), "shapes": [shape.name for shape in setup.shapes]})
    rows: list[Row] = []

    def add(row: Row, line: str) -> None:
        rows.append(row)
        record.add(row, line)

    if "parity" in parts:
        _parity(setup, add)
    methods = [method for method in ("sparsemm", "full") if method in parts]
    if methods:
        bandwidth = copy_bandwidth(setup.device, setup.copied_bytes)
        add({"what": "bandwidth", "bytes_per_second": bandwidth}, f"{bandwidth / 1e9:.0f} GB/s by copies")
        for method in methods:
            for shape in setup.shapes:
                _decode_rows(shape, method, setup, bandwidth, add)
    if "concurrent" in parts:
        _concurrent(setup, add)
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


# ---- parity


def _parity(setup: Setup, add: Callable[[Row, str], None]) -> None:
    """Every backend against float64, graphs against steps without, and compiled layers against graphs without."""
    device = torch.device(setup.device)
    for name, shape, group in _parity_shapes(setup):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            own = replace(shape, itemsize=dtype.itemsize)
            for backend in BACKENDS:
                try:
                    (tried,) = choose_backend(backend, own, dtype=dtype, device=device, group=group).tried
                except Unavailable as error:
                    tried = Tried(backend, reason=error.detail)
                add(*_told_parity(name, str(dtype).removeprefix("torch."), tried))
    for model in setup.shapes:
        for dtype in (torch.float32, setup.torch_dtype):
            loaded = random_model(replace(model, num_layers=min(4, model.num_layers)), dtype, device)
            paging = Paging(loaded.cache_shape)
            room = 64 * paging.tail(1) * paging.page_bytes
            choice = Engine(loaded, Defaults(room, decode_backend=_own_backend(setup))).choice
            for name, made in (("graphs", choice.graphs), ("compiled", choice.compiled)):
                tried = replace(made.tried[0], name=name)
                add(*_told_parity(model.name, str(dtype).removeprefix("torch."), tried))
            _free(setup.device)


def _parity_shapes(setup: Setup) -> list[tuple[str, CacheShape, int]]:
    shapes = [
        (one.name, CacheShape(1, one.num_kv_heads, one.head_dim, 2), one.num_heads // one.num_kv_heads)
        for one in setup.shapes
    ]
    head_dim = max(shape.head_dim for _, shape, _ in shapes)
    return [*shapes, ("sliding", CacheShape(2, 2, head_dim, 2, window=100, sliding_layers=(1,)), 2)]


def _told_parity(shape: str, dtype: str, tried: Tried) -> tuple[Row, str]:
    """`ran` is false for what is not made for this machine."""
    ran = tried.right or (tried.reason or "").startswith(("wrong by", "not a number", "it fails"))
    row = {"what": "parity", "shape": shape, "dtype": dtype, **vars(tried), "right": tried.right, "ran": ran}
    said = f"right, error {tried.error:.1e}" if tried.right and tried.error is not None else str(tried.reason)
    return row, f"{shape:18} {dtype:9} {tried.name:8} {said}"


def _own_backend(setup: Setup) -> str:
    return "triton" if setup.device.startswith("cuda") else "auto"


def one_step(setup: Setup) -> None:
    """One small step of the kernels, for a sanitizer to watch."""
    device, shape = torch.device(setup.device), CacheShape(2, 2, 64, 2, window=40, sliding_layers=(1,))
    trial = standard_trial(shape, dtype=torch.bfloat16, device=device, group=2)
    backend = make_backend(_own_backend(setup), trial.pool)
    for layer_idx in range(shape.num_layers):
        trial.run(backend, layer_idx)
    _synchronise(setup.device)


# ---- what users get


def _decode_rows(
    shape: ModelShape, method: str, setup: Setup, bandwidth: float, add: Callable[[Row, str], None]
) -> None:
    loaded = random_model(shape, setup.torch_dtype, torch.device(setup.device))
    weights = step_weights(loaded)
    for prompt_tokens in setup.prompts:
        for batch in setup.batches:
            row: Row = {
                "what": "decode", "shape": shape.name, "grouped": shape.num_heads > shape.num_kv_heads,
                "method": method, "prompt_tokens": prompt_tokens, "batch": batch, "weights_bytes": weights,
            }  # fmt: skip
            row |= _measured(loaded, shape, method, prompt_tokens, batch, setup)
            said = row.get("missing")
            if said is None:
                row["floor_ms"] = (weights + row["kv_bytes"]) / bandwidth * 1e3
                said = f"{row['token_ms']:.2f} ms, floor {row['floor_ms']:.2f}, peak {row['peak_bytes'] / 1e9:.1f} GB"
            add(row, f"{shape.name:18} {method:8} {prompt_tokens:6} tokens x {batch}  {said}")
    del loaded
    _free(setup.device)


def _measured(loaded: LoadedModel, shape: ModelShape, method: str, prompt_tokens: int, batch: int, setup: Setup) -> Row:
    """A row's figures, or `missing`: the reason there are none. The pool is as large as the row needs."""
    paging, plan = Paging(loaded.cache_shape), make_plan(loaded, shape, method, prompt_tokens, setup)
    pages = batch * (paging.sequence(plan, setup.answer) + paging.tail(1))
    _free(setup.device)
    try:
        engine = Engine(loaded, Defaults(pages * paging.page_bytes))
        return _ask(engine, shape, method, prompt_tokens, batch, setup) | {
            "kv_bytes": batch * _kept_bytes(plan, loaded.cache_shape, setup),
            "attention": engine.choice.attention.chosen,
            "graphs": engine.choice.graphs.chosen,
            "compiled": engine.choice.compiled.chosen,
        }
    except torch.OutOfMemoryError as error:
        return {"missing": str(error).partition("\n")[0]}
    except (HeadmapError, TimeoutError) as error:
        return {"missing": str(error)}


def _ask(engine: Engine, shape: ModelShape, method: str, prompt_tokens: int, batch: int, setup: Setup) -> Row:
    """Ask for `batch` answers at once, and time the steps that all of them share. Raises the error that ends any."""
    loaded, wanted = engine.loaded, setup.settle + setup.steps + 1
    heard: list[list[float]] = [[] for _ in range(batch)]
    failed: list[HeadmapError] = []
    enough = Event()

    def listener(times: list[float]) -> Callable[[EngineEvent], None]:
        def hear(event: EngineEvent) -> None:
            if isinstance(event, Token):
                times.append(perf_counter())
            elif isinstance(event, Failed) and not isinstance(event.error, Cancelled):
                failed.append(event.error)
            if not isinstance(event, Token) or min(map(len, heard)) >= wanted:
                enough.set()

        return hear

    if setup.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    engine.start()
    try:
        started = perf_counter()
        for number, times in enumerate(heard):
            sampling = SamplingParams(setup.answer, do_sample=True, temperature=0.7, ignore_eos=True, seed=number)
            request = EngineRequest(
                str(number), random_prompt(loaded, prompt_tokens, number), _kv(method, setup), sampling, shape.scores
            )
            engine.submit(request, listener(times))
        if not enough.wait(setup.row_seconds):
            raise TimeoutError(f"not done in {setup.row_seconds:.0f} s")
    finally:
        for number in range(batch):
            engine.cancel(str(number))
        engine.stop(setup.row_seconds)
    if failed:
        raise failed[0]
    all_run = max(times[0] for times in heard)
    shared = [moment for moment in heard[0] if moment >= all_run]
    steps = sorted((b - a) * 1e3 for a, b in zip(shared[setup.settle :], shared[setup.settle + 1 :], strict=False))
    return {
        "token_ms": median(steps), "token_ms_q1": steps[len(steps) // 4], "token_ms_q3": steps[3 * len(steps) // 4],
        "first_token_ms": (heard[0][0] - started) * 1e3, "peak_bytes": _peak_bytes(setup.device),
    }  # fmt: skip


def _kv(method: str, setup: Setup) -> KVRequest:
    return KVRequest(method, budget=None if method == "full" else setup.budget)


def make_plan(loaded: LoadedModel, shape: ModelShape, method: str, prompt_tokens: int, setup: Setup) -> KeepPlan:
    return plan_cache(_kv(method, setup), loaded.cache_shape, prompt_tokens, shape.scores)


def _kept_bytes(plan: KeepPlan, shape: CacheShape, setup: Setup) -> int:
    """Of one sequence, half way through the steps that count."""
    return (plan.kept_tokens + shape.full_tokens(setup.settle + setup.steps // 2)) * shape.token_bytes


# ---- how many fit


def _concurrent(setup: Setup, add: Callable[[Row, str], None]) -> None:
    for shape in setup.shapes:
        loaded = random_model(shape, setup.torch_dtype, torch.device("meta"))
        weights = sum(weight.nbytes for weight in loaded.model.parameters())
        for method in ("sparsemm", "full"):
            plan, paging = make_plan(loaded, shape, method, setup.concurrent_prompt, setup), Paging(loaded.cache_shape)
            room = max(0, setup.memory_bytes - weights - _working_bytes(shape, setup))
            fit = room // (paging.sequence(plan, setup.concurrent_answer) * paging.page_bytes)
            row = {"what": "concurrent", "shape": shape.name, "method": method, "requests": fit}
            add(row, f"{shape.name:18} {method:8} {fit} requests of {setup.concurrent_prompt} tokens fit")


def _working_bytes(shape: ModelShape, setup: Setup) -> int:
    """Working memory of a prefill of such a prompt, beside the cache: a layer's hidden states and MLP."""
    per_token = 4 * shape.num_heads * shape.head_dim + 3 * shape.intermediate
    return setup.concurrent_prompt * per_token * setup.torch_dtype.itemsize


# ---- a device


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _free(device: str) -> None:
    gc.collect()  # an engine and its listeners refer to each other
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--part", action="append", choices=(*PARTS, *APART), help="all of PARTS without")
    parser.add_argument("--json", type=Path, help="the result, written after each row")
    parser.add_argument("--device", help="cuda, cuda:N or cpu")
    parser.add_argument("--prompt", type=int, action="append", help="tokens of a prompt; some lengths without")
    parser.add_argument("--short", action="store_true", help="tiny models, for a rehearsal")
    parser.add_argument("--summary", type=Path, metavar="FOLDER", help="say what the results in a folder tell")
    given = parser.parse_args(arguments)
    if given.summary is not None:
        print(summary(given.summary))
        return
    setup = SHORT if given.short or os.environ.get("HEADMAP_GPU_SHORT") == "1" else Setup()
    setup = setup if given.device is None else replace(setup, device=given.device)
    setup = replace(setup, prompts=tuple(given.prompt or setup.prompts))
    record, parts = Recorder(given.json, lambda line: print(line, flush=True)), given.part or PARTS
    if "step" in parts:
        one_step(setup)
    for part in ("kernels", "settings"):
        if part in parts:
            _attention(part, record, setup)
    if "profile" in parts:
        import_module("benchmarks.step_profile").run(record=record, setup=setup)
    if rest := [part for part in parts if part in PARTS]:
        run(record=record, setup=setup, parts=rest)


def _attention(part: str, record: Recorder, setup: Setup) -> None:
    kernels, kernel_settings = (import_module(f"benchmarks.{name}") for name in ("kernels", "kernel_settings"))
    own: Row = {"device": setup.device, "dtype": setup.dtype, "backend": _own_backend(setup)}
    short = setup.shapes == SHORT.shapes
    if short:
        own |= {"shape": TINY, "prompts": (64,), "batches": (1,), "repeats": 2, "budget": 32, "copied_bytes": 2**20}
    if part == "kernels":
        kernels.run(record=record, setup=kernels.Setup(**own))
    else:
        least: Row = {"cases": (("full", 64, 1),), "settings": ({}, {"warps": 2})} if short else {}
        kernel_settings.run(record=record, setup=kernels.Setup(**own), **least)


if __name__ == "__main__":
    main()
