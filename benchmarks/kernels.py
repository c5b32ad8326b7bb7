"""Attention of decode steps by itself: all layers of a shape over a pool, against the bytes that have to be read.

Floor: the keys and values that are kept over the measured bandwidth of a copy. Beside it torch's own
scaled_dot_product_attention over dense tensors of whole prompts. No model, no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu import copy_bandwidth
from benchmarks.report import Recorder
from benchmarks.shapes import VICUNA, Shape
from benchmarks.skew import published_skew
from headmap.engine.graphs import CudaCapture
from headmap.errors import OutOfMemory
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.backends.choice import make_backend
from headmap.kvcache.backends.trial import Trial, make_trial
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

SDPA = "sdpa"
_GENERATED = 16

Step = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Setup:
    """What is measured. `methods`: budgets that a pool is filled by; `sdpa` attends to whole prompts without a pool.

    On a CUDA device a step of all layers is replayed as one graph.
    """

    shape: Shape = VICUNA
    prompts: tuple[int, ...] = (2048, 8192, 32_768)
    batches: tuple[int, ...] = (1, 8)
    methods: tuple[str, ...] = ("sparsemm", "full", SDPA)
    budget: int = 256
    repeats: int = 20
    device: str = "cuda"
    dtype: str = "bfloat16"
    backend: str = "triton"
    copied_bytes: int = 2**31

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def cache_shape(self) -> CacheShape:
        shape = self.shape
        return CacheShape(shape.num_layers, shape.num_kv_heads, shape.head_dim, self.torch_dtype.itemsize)

    @property
    def group(self) -> int:
        return self.shape.num_heads // self.shape.num_kv_heads


def run(*, record: Recorder, setup: Setup | None = None) -> dict[str, Any]:
    """A row for each prompt, batch and method: milliseconds of a step, its floor, and the error of its first layer.

    What does not fit has `missing` instead.
    """
    setup = setup or Setup()
    record.begin("kernels", {**vars(setup), "shape": setup.shape.name})
    bandwidth = copy_bandwidth(setup.device, setup.copied_bytes)
    for prompt in setup.prompts:
        for batch in setup.batches:
            for method in setup.methods:
                row = {"method": method, "prompt_tokens": prompt, "batch": batch}
                row |= _measured(setup, method, prompt, batch, bandwidth)
                told = f"{row['step_ms']:.3f} ms, floor {row['floor_ms']:.3f}" if "step_ms" in row else row["missing"]
                record.add(row, f"{prompt:6} tokens x {batch}  {method:9} {told}")
    return record.end()


def _measured(setup: Setup, method: str, prompt: int, batch: int, bandwidth: float) -> dict[str, Any]:
    if setup.device.startswith("cuda"):
        torch.cuda.empty_cache()
    try:
        if method == SDPA:
            kv_bytes = setup.cache_shape.full_tokens(prompt) * setup.cache_shape.token_bytes * batch
            found: dict[str, Any] = {"kv_bytes": kv_bytes} | _timed(_dense(setup, prompt, batch), setup)
        else:
            found = _over_pool(setup, method, prompt, batch)
    except (OutOfMemory, torch.OutOfMemoryError) as error:
        return {"missing": str(error).splitlines()[0]}
    return found | {"floor_ms": found["kv_bytes"] / bandwidth * 1e3}


@torch.inference_mode()
def _over_pool(setup: Setup, method: str, prompt: int, batch: int) -> dict[str, Any]:
    filled = fill_pool(setup, method, prompt, batch)
    return {"kv_bytes": filled.kv_bytes} | time_backend(filled, make_backend(setup.backend, filled.trial.pool), setup)


@dataclass(frozen=True)
class Filled:
    """A pool filled with sequences. `expected`: the right output of its first layer."""

    trial: Trial
    kv_bytes: int
    expected: torch.Tensor


def fill_pool(setup: Setup, method: str, prompt: int, batch: int) -> Filled:
    """Raises OutOfMemory."""
    plan, shape = _plan(setup, method, prompt), setup.cache_shape
    paging = Paging(shape)
    pool = Pool(
        shape, memory_bytes=batch * paging.sequence(plan, _GENERATED) * paging.page_bytes, slots=batch,
        max_tokens=_GENERATED, dtype=setup.torch_dtype, device=torch.device(setup.device),
    )  # fmt: skip
    trial = make_trial(pool, [plan.tokens] * batch, [_GENERATED] * batch, setup.group)
    tokens = int(plan.tokens.sum()) + shape.num_layers * shape.num_kv_heads * _GENERATED
    return Filled(trial, tokens * shape.token_bytes * batch, trial.expected(0))


@torch.inference_mode()
def time_backend(filled: Filled, backend: DecodeBackend, setup: Setup) -> dict[str, float]:
    """Milliseconds of a step of all layers, and the error of its first."""

    def step() -> torch.Tensor:
        return torch.stack([filled.trial.run(backend, layer_idx) for layer_idx in range(setup.shape.num_layers)])

    error = float((step()[0].double() - filled.expected).abs().max())
    return {"error": error} | _timed(step, setup)


def _plan(setup: Setup, method: str, prompt: int) -> KeepPlan:
    """What a method keeps of a prompt, with a map as concentrated as the published one."""
    shape = setup.shape
    scores = published_skew(shape.num_layers, shape.num_heads, shape.num_kv_heads)
    budget = None if method == "full" else setup.budget
    return plan_cache(KVRequest(method, budget=budget), setup.cache_shape, prompt, scores)


def _dense(setup: Setup, prompt: int, batch: int) -> Step:
    """All layers by torch; each has its own keys and values, so that none are in a cache of the device."""
    shape = setup.shape
    options: dict[str, Any] = {"dtype": setup.torch_dtype, "device": setup.device}
    kept = torch.randn((shape.num_layers, 2, batch, shape.num_kv_heads, prompt, shape.head_dim), **options)
    query = torch.randn((batch, shape.num_heads, 1, shape.head_dim), **options)
    grouped = setup.group > 1

    def step() -> torch.Tensor:
        return torch.stack([scaled_dot_product_attention(query, k, v, enable_gqa=grouped) for k, v in kept])

    return step


@torch.inference_mode()
def _timed(step: Step, setup: Setup) -> dict[str, float]:
    """Milliseconds of a step, median and quartiles."""
    on_gpu = setup.device.startswith("cuda")
    run: Callable[[], object] = CudaCapture()(step)[0] if on_gpu else step
    times = []
    for _ in range(2 + setup.repeats if on_gpu else setup.repeats):
        started = perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        times.append((perf_counter() - started) * 1e3)
    times = sorted(times[-setup.repeats :])
    return {
        "step_ms": median(times), "step_ms_q1": times[len(times) // 4], "step_ms_q3": times[3 * len(times) // 4],
    }  # fmt: skip
