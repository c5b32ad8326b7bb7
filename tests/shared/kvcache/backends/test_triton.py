"""The Triton kernels in Triton's interpreter (see `conftest.py`), and what a GPU's compiler makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.kvcache.backends import triton_kernels
from headmap.kvcache.backends.torch_ops import TorchBackend
from headmap.kvcache.backends.trial import Trial, make_trial
from headmap.kvcache.backends.triton_pages import TritonBackend, default_programs
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

CPU = torch.device("cpu")
WINDOW, SLIDING = 20, 1


def pool_of(
    *, head_dim: int = 16, heads: int = 2, page_tokens: int = 32, dtype: torch.dtype = torch.float32, slots: int = 4
) -> Pool:
    """Room for some sequences of one layer that sees everything and one that slides."""
    shape = CacheShape(2, heads, head_dim, dtype.itemsize, window=WINDOW, sliding_layers=(SLIDING,))
    bytes_ = 400 * page_tokens * shape.token_bytes
    return Pool(
        shape, memory_bytes=bytes_, slots=slots, max_tokens=200, dtype=dtype, device=CPU, page_tokens=page_tokens
    )


def small(pool: Pool, *, programs: int = 3, split_tokens: int = 32) -> TritonBackend:
    """A backend whose programs have several rows each, and whose rows have several programs."""
    return TritonBackend(pool, split_tokens=split_tokens, programs=programs, tile_tokens=16)


def parts_of(*kept: Sequence[int]) -> list[np.ndarray]:
    """The parts of sequences whose heads kept so many tokens of a prompt of the largest number."""
    return [np.array([row, [max(row)] * len(row)]) for row in kept]


def close(trial: Trial, layer_idx: int, output: torch.Tensor) -> None:
    """Within 1e-5 beyond what plain float32 operations miss themselves."""
    expected = trial.expected(layer_idx)
    miss = (trial.run(TorchBackend(trial.pool), layer_idx).double() - expected).abs().max()
    torch.testing.assert_close(output.double(), expected, atol=1e-5 + float(miss), rtol=1e-5)


rows = st.lists(st.integers(0, 90), min_size=2, max_size=2)


@settings(max_examples=7, deadline=None)
@given(
    sequences=st.lists(st.tuples(rows, st.integers(1, 70)), min_size=1, max_size=3),
    group=st.sampled_from([1, 3, 7, 8]),
    head_dim=st.sampled_from([16, 64, 80, 128]),
    page_tokens=st.sampled_from([16, 32]),
    layer_idx=st.integers(0, 1),
    programs=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_it_equals_dense_attention(
    sequences: list[tuple[list[int], int]],
    group: int,
    head_dim: int,
    page_tokens: int,
    layer_idx: int,
    programs: int,
    seed: int,
) -> None:
    kept, generated = zip(*sequences, strict=True)
    trial = make_trial(pool_of(head_dim=head_dim, page_tokens=page_tokens), parts_of(*kept), generated, group, seed)
    close(trial, layer_idx, trial.run(small(trial.pool, programs=programs), layer_idx))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-7)])
def test_sixteen_bits_cost_no_more_than_the_rounding_of_the_answer(dtype: torch.dtype, rounding: float) -> None:
    """The interpreter cuts bfloat16 off where a GPU rounds it: twice the error."""
    trial = make_trial(pool_of(head_dim=64, dtype=dtype), parts_of([90, 3], [40, 64]), [5, 33], group=3)
    output = trial.run(small(trial.pool), 0)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), trial.expected(0), atol=1e-5, rtol=rounding)


def test_a_row_of_many_segments_stands_beside_short_ones() -> None:
    """More segments than are joined at once."""
    trial = make_trial(pool_of(heads=1), parts_of([1060], [3]), [1, 2], group=2)
    close(trial, 0, trial.run(small(trial.pool, programs=74, split_tokens=16), 0))


def test_slots_come_in_any_order_and_the_idle_one_several_times() -> None:
    trial = make_trial(pool_of(), parts_of([50, 7], [0, 33], [20, 90]), [2, 40, 1], group=3)
    backend, idle = small(trial.pool), trial.pool.books.slots
    order = torch.tensor([2, 2, 0, 1, 1])
    slots = torch.tensor([idle, *trial.slots[[2, 0, 1]].tolist(), idle])
    given = (slots, trial.queries[order], trial.keys[order], trial.values[order], trial.scaling)
    for layer_idx in range(2):
        output = backend.attend(layer_idx, *given)
        close(trial, layer_idx, output[[2, 3, 1]])
        assert output.isfinite().all()


Launch = Callable[[], None]


class Recorded:
    """Stands for the kernels, runs them, and can launch again what was launched, as a CUDA graph does."""

    def __init__(self, kernels: ModuleType) -> None:
        self.COLUMNS_AT_ONCE = kernels.COLUMNS_AT_ONCE
        self.begin, self.attend, self.join = (self._kernel(k) for k in (kernels.begin, kernels.attend, kernels.join))
        self.launches: list[Launch] = []
        self.given: list[tuple[Any, ...]] = []

    def _kernel(self, kernel: Any) -> Any:
        recorded = self

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                def launch(*args: Any, **options: Any) -> None:
                    told = [arg.data_ptr() if isinstance(arg, torch.Tensor) else arg for arg in args]
                    recorded.given.append((grid, *told, *options.values()))
                    recorded.launches.append(lambda: kernel[grid](*args, **options))
                    recorded.launches[-1]()

                return launch

        return Kernel()


def test_a_step_replayed_reads_tables_that_have_changed() -> None:
    """The same launches, pointer by pointer, answer later steps of sequences that grew, left and came."""
    trial = make_trial(pool_of(), parts_of([50, 7], [0, 33]), [2, 31], group=2)
    pool, books, backend = trial.pool, trial.pool.books, small(trial.pool)
    backend._kernels = recorded = Recorded(triton_kernels)  # type: ignore[assignment]
    output = trial.run(backend, 0)
    close(trial, 0, output)

    first, _ = trial.slots.tolist()
    books.release(first)
    tokens = np.array([[120, 4], [120, 120]])
    plan = KeepPlan("full", 120, 120, 0, "exact", tokens, np.full(2, 120))
    came = books.admit(plan, 1)
    for layer_idx, counts in ((0, tokens[0]), (SLIDING, np.array([0, 0]))):
        pages = books.place(came, layer_idx, counts)
        pool.write(pages, *torch.randn(2, len(pages), pool.page_tokens, pool.shape.head_dim))
    books.seal(came)
    trial.slots[0] = came
    for _ in range(2):
        books.append(trial.slots.numpy())
        trial.queries.normal_()
        trial.keys.normal_()
        for launch in recorded.launches[:3]:
            launch()
        close(trial, 0, output)

    again = trial.run(backend, 0)
    told = [tuple(value for value in launch if value != again.data_ptr()) for launch in recorded.given[3:]]
    assert told == [tuple(value for value in launch if value != output.data_ptr()) for launch in recorded.given[:3]]


def test_a_step_larger_than_the_pool_has_slots_has_a_workspace_of_its_own() -> None:
    trial = make_trial(pool_of(slots=2), parts_of([40, 20]), [3], group=2)
    backend, order = small(trial.pool), torch.zeros(6, dtype=torch.int64)
    slots = torch.tensor([*trial.slots.tolist(), *[trial.pool.books.slots] * 5])
    output = backend.attend(0, slots, trial.queries[order], trial.keys[order], trial.values[order], trial.scaling)
    close(trial, 0, output[:1])


def test_the_workspace_has_the_size_that_is_told() -> None:
    backend = small(pool_of(heads=2, slots=3), programs=5)
    work = backend._workspace(sequences=1, group=7)
    assert sum(tensor.nbytes for tensor in vars(work).values()) == backend.workspace_bytes(3, 2, 7, 16, 5)
    assert backend._workspace(sequences=4, group=7) is work


def test_what_it_cannot_serve_is_told() -> None:
    assert TritonBackend.missing(pool_of(head_dim=256)) is None
    assert TritonBackend.missing(pool_of(head_dim=272)) == ("it takes a head_dim of at most 256, this is 272")
    assert TritonBackend.missing(pool_of(dtype=torch.float64)) == "it knows no torch.float64"


def test_no_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "headmap.kvcache.backends.triton_kernels")
    monkeypatch.delattr("headmap.kvcache.backends.triton_kernels")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert (TritonBackend.missing(pool_of()) or "").startswith("Triton cannot be imported: ")


@pytest.mark.parametrize(("shared_kib", "programs"), [(100, 2 * 10), (228, 3 * 10), (32, 10)])
def test_as_many_programs_as_run_at_once(monkeypatch: pytest.MonkeyPatch, shared_kib: int, programs: int) -> None:
    class Device:
        multi_processor_count = 10
        shared_memory_per_multiprocessor = shared_kib * 1024

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Device)
    assert default_programs(torch.device("cuda")) == programs


@pytest.mark.slow
def test_a_gpu_compiles_each_kernel_once(tmp_path: Path) -> None:
    """For batches, layers and alignments of all kinds; in a process whose Triton does not interpret."""
    script = Path(__file__).with_name("compile_steps.py")
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["missing"] == "it needs a CUDA device, the pool is on cpu"
    assert told["compiled"] == {"begin": 1, "attend": 1, "join": 1}
    assert told["wide_loads"]
