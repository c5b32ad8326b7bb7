"""Every decode backend against plain dense attention, row by row; the Triton kernels run in Triton's interpreter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headmap.kvcache.backends import Attend, _native_or_torch, blocked, fused_blocks, get_backend
from headmap.kvcache.blocks import Assigned
from headmap.kvcache.store import LayerStore

WAYS = {"blocks": blocked.attend_blocks, "masked": blocked.attend_masked, "fused": fused_blocks.attend}
"""Between these the torch backend chooses by size and precision."""


CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["torch", "native", "triton", *WAYS])
def backend(request: pytest.FixtureRequest) -> Attend:
    return WAYS.get(request.param) or named(request.param)


def named(name: str) -> Attend:
    try:
        return get_backend(name, CPU)
    except ImportError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            pytest.skip("no C++ compiler")  # then nothing decodes natively; what it cannot compile still fails
        raise


def filled(
    lengths: list[int], size: int, dim: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[LayerStore, list[torch.Tensor]]:
    """A store whose rows 0, 1, ... hold `lengths` tokens in blocks strewn about, and each row's keys (and values)."""
    torch.manual_seed(seed)
    counts = [-(-length // size) for length in lengths]
    strewn = np.random.default_rng(seed).permutation(sum(counts) + 3)
    store = LayerStore(size, dim, dtype, torch.device("cpu"))
    store.resize(len(strewn))
    store.keys.fill_(7.0)  # what lies in free slots must not matter
    tokens = []
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        blocks, strewn = strewn[:count], strewn[count:]
        store.assign(Assigned(blocks, np.full(count, row), np.arange(count)))
        places = (np.repeat(blocks, size) * size + np.tile(np.arange(size), count))[:length]
        tokens.append((torch.randn(length, 2, dim) * 3).to(dtype))
        store.write(torch.from_numpy(places), tokens[-1][:, 0], tokens[-1][:, 1])
    return store, tokens


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=5).filter(any),
    group=st.sampled_from([1, 3, 7]),
    dim=st.sampled_from([16, 24, 64]),
    size=st.sampled_from([16, 32]),
    seed=st.integers(0, 100),
)
def test_a_backend_equals_dense_attention(
    backend: Attend, lengths: list[int], group: int, dim: int, size: int, seed: int
) -> None:
    store, tokens = filled(lengths, size, dim, seed)
    queries = torch.randn(len(lengths), group, dim)
    output = backend(queries, store, dim**-0.5).double()
    for row, kept in enumerate(tokens):
        if len(kept):
            keys, values = kept.double().unbind(1)
            expected = (queries[row].double() @ keys.T * dim**-0.5).softmax(-1) @ values
            plain = (queries[row] @ kept[:, 0].T * dim**-0.5).softmax(-1) @ kept[:, 1]
            off = float((plain - expected).abs().max())  # by how much float32 misses, block or no block
            torch.testing.assert_close(output[row], expected, atol=1e-5 + off, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=9).filter(any),
    group=st.sampled_from([1, 7]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
    attend=st.sampled_from([named("auto"), blocked.attend, fused_blocks.attend]),
)
def test_sixteen_bits_cost_no_more_than_the_rounding_of_the_answer(
    lengths: list[int], group: int, dtype: torch.dtype, seed: int, attend: Attend
) -> None:
    store, tokens = filled(lengths, 32, 64, seed, dtype)
    queries = torch.randn(len(lengths), group, 64).to(dtype)
    output = attend(queries, store, 0.125)
    assert output.dtype == dtype
    for row, kept in enumerate(tokens):
        if len(kept):
            keys, values = kept.float().unbind(1)
            expected = (queries[row].float() @ keys.T * 0.125).softmax(-1) @ values
            torch.testing.assert_close(output[row].float(), expected, atol=2e-2, rtol=1e-2)


def test_rows_that_the_layer_does_not_know_yet_leave_the_others_alone(backend: Attend) -> None:
    store, _ = filled([40, 33], 16, 16, 0)
    store.table, store.counts = store.table[:2].clone(), store.counts[:2].clone()
    queries = torch.randn(2, 2, 16)
    more = torch.cat([queries, torch.randn(30, 2, 16)])
    torch.testing.assert_close(backend(more, store, 0.25)[:2], backend(queries, store, 0.25))


LENGTHS = [40, 33, 5, 20, 9]


def free_blocks(store: LayerStore) -> list[int]:
    return (store.bias[:, 0] != 0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("gone", [0, 1])
def test_rows_that_are_released_leave_the_others_alone(backend: Attend, gone: int) -> None:
    store, _ = filled(LENGTHS, 16, 16, 0)
    queries = torch.randn(5, 2, 16)
    before = backend(queries, store, 0.25).clone()
    store.keys[store.owner == gone] = torch.nan
    store.free(gone, 1)
    others = [row for row in range(5) if row != gone]
    torch.testing.assert_close(backend(queries, store, 0.25)[others], before[others])


def test_blocks_that_a_row_gets_later_count(backend: Attend) -> None:
    store, tokens = filled(LENGTHS, 16, 16, 0)
    queries = torch.randn(5, 2, 16)
    before = backend(queries, store, 0.25).clone()
    block = free_blocks(store)[0]
    store.assign(Assigned(np.array([block]), np.array([2]), np.array([1])))
    more = torch.randn(2, 16)
    store.write(block * 16 + torch.arange(2), more, more)
    kept = torch.cat([tokens[2], more[:, None].expand(-1, 2, -1)])
    after = backend(queries, store, 0.25)
    expected = (queries[2] @ kept[:, 0].T * 0.25).softmax(-1) @ kept[:, 1]
    torch.testing.assert_close(after[2], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


def test_blocks_that_are_taken_back_do_not_count(backend: Attend) -> None:
    store, _ = filled(LENGTHS, 16, 16, 0)
    queries = torch.randn(5, 2, 16)
    before = backend(queries, store, 0.25).clone()
    block = free_blocks(store)[0]
    given = Assigned(np.array([block]), np.array([2]), np.array([1]))
    store.assign(given)
    store.write(torch.tensor([block * 16]), torch.full((1, 16), torch.nan), torch.full((1, 16), torch.nan))
    store.take_back(given)
    beyond = len(store.owner) + 4  # there was no room for it
    store.take_back(Assigned(np.array([beyond]), np.array([99]), np.array([1])))
    torch.testing.assert_close(backend(queries, store, 0.25), before)


def test_blocks_that_are_moved_together_give_the_same(backend: Attend) -> None:
    store, _ = filled(LENGTHS, 16, 16, 0)
    queries = torch.randn(5, 2, 16)
    before = backend(queries, store, 0.25).clone()
    store.keep_blocks(np.setdiff1d(np.arange(len(store.owner)), free_blocks(store)))
    torch.testing.assert_close(backend(queries, store, 0.25), before)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_rows_are_whole_however_they_are_shared_out(threads: int, dtype: torch.dtype) -> None:
    """One row takes most of two threads' shares, some end within one, one has no token."""
    attend, before = named("native"), torch.get_num_threads()
    store, tokens = filled([40, 1500, 3, 0, 900, 64], 32, 64, 0, dtype)
    queries = (torch.randn(6, 7, 64) * 2).to(dtype)
    try:
        torch.set_num_threads(threads)
        output = attend(queries, store, 0.125)
    finally:
        torch.set_num_threads(before)
    for row in (0, 1, 2, 4, 5):
        keys, values = tokens[row].float().unbind(1)
        expected = (queries[row].float() @ keys.T * 0.125).softmax(-1) @ values
        close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 1e-2}
        torch.testing.assert_close(output[row].float(), expected, **close)


def test_native_runs_in_the_threads_that_torch_has() -> None:
    named("native")
    maps = Path("/proc/self/maps").read_text()
    assert len(set(re.findall(r"/\S*/lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps))) == 1


def test_without_a_compiler_torch_decodes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delitem(sys.modules, "headmap.kvcache.backends.native", raising=False)
    with pytest.raises(ImportError, match=r"CXX names the compiler: .*'no-such-compiler'"):
        get_backend("native", CPU)
    assert _native_or_torch.__wrapped__() is blocked.attend
    assert "at about half the speed: native.cc cannot be compiled" in caplog.text


def test_what_the_compiler_says_is_told(tmp_path: Path) -> None:
    named("native")
    from headmap.kvcache.backends import native

    broken = tmp_path / "broken.cc"
    broken.write_text("int half(")
    with pytest.raises(ImportError, match=r"broken\.cc cannot be compiled; .*broken\.cc:1"):
        native.compiled(broken)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"backend 'fast' is none of auto, torch, native, triton"):
        get_backend("fast", CPU)


def test_native_is_for_a_cpu() -> None:
    with pytest.raises(ValueError, match="backend native runs on a CPU, not on cuda"):
        get_backend("native", torch.device("cuda"))
