"""What the C++ backend has of its own: threads, the compiler, and the writing of a prompt's pages."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from headmap.kvcache.backends.trial import make_trial
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape

CPU, NAME = torch.device("cpu"), "headmap.kvcache.backends.native"


@pytest.fixture(scope="module")
def native() -> ModuleType:
    module = import_module(NAME)
    try:
        module.compiled("float")
    except ImportError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            pytest.skip("no C++ compiler")
        raise
    return module


def pool_of(
    head_dim: int = 64, page_tokens: int = 32, dtype: torch.dtype = torch.float32, heads: int = 1, pages: int = 200
) -> Pool:
    shape = CacheShape(1, heads, head_dim, dtype.itemsize)
    size = pages * page_tokens * shape.token_bytes
    return Pool(
        shape, memory_bytes=size, slots=6, max_tokens=64, dtype=dtype, device=CPU, page_tokens=page_tokens
    )  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_whole_however_they_are_shared_out(native: ModuleType, threads: int, dtype: torch.dtype) -> None:
    """One row takes most of two threads' shares, and some end within one."""
    lengths, before = [40, 1500, 3, 0, 900, 64], torch.get_num_threads()
    trial = make_trial(pool_of(dtype=dtype), [np.array([[n]]) for n in lengths], [1, 33, 2, 1, 7, 1], 7)
    backend = native.NativeBackend(trial.pool)
    try:
        torch.set_num_threads(threads)
        output, again = trial.run(backend, 0), trial.run(backend, 0)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(output, again)
    rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    torch.testing.assert_close(output.double(), trial.expected(0), atol=1e-5, rtol=1e-5 + rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("head_dim", "page_tokens"), [(64, 32), (80, 16)])
def test_pages_are_written_as_the_pool_writes_them(
    native: ModuleType, dtype: torch.dtype, head_dim: int, page_tokens: int
) -> None:
    """Two heads keep different tokens of a prompt; the second leaves places of its last page free."""
    pool = pool_of(head_dim, page_tokens, dtype, heads=2, pages=12)
    keys, values = (torch.randn(100, 2, head_dim).to(dtype).transpose(0, 1) for _ in "kv")  # (heads, n, d), strided
    own = torch.stack((torch.arange(2 * page_tokens), torch.arange(50, 50 + 2 * page_tokens) % 100))
    source = own * 2 + torch.arange(2)[:, None]  # where token and head lie in memory
    source[1, -5:] = -1
    pages = np.array([7, 2, 9, 0], dtype=np.int32)
    rows = [held.transpose(0, 1).reshape(200, head_dim) for held in (keys, values)]
    native.NativeBackend(pool).write(pages, source.reshape(-1), *rows)
    for head, (at, count) in enumerate(((pages[:2], 2 * page_tokens), (pages[2:], 2 * page_tokens - 5))):
        for held, given in zip(pool.read(at, count), (keys, values), strict=True):
            assert torch.equal(held, given[head, own[head, :count]])


@pytest.mark.parametrize(
    ("pool", "why"),
    [
        (pool_of(head_dim=24), "head_dim 24 is no multiple of 16"),
        (pool_of(page_tokens=24), "page_tokens 24 is no multiple of 16"),
        (pool_of(dtype=torch.float64), "it knows no torch.float64"),
        (pool_of(), None),
    ],
)
def test_what_it_cannot_serve_is_said(native: ModuleType, pool: Pool, why: str | None) -> None:
    assert native.NativeBackend.missing(pool) == why


def test_it_is_for_a_cpu(native: ModuleType) -> None:
    shape = CacheShape(1, 1, 16, 4)
    pool = Pool(
        shape, memory_bytes=4096, slots=1, max_tokens=8, dtype=torch.float32, device=torch.device("meta")
    )  # fmt: skip
    assert native.NativeBackend.missing(pool) == "it runs on a CPU, not on meta"


def test_it_runs_in_the_threads_that_torch_has(native: ModuleType) -> None:
    maps = Path("/proc/self/maps").read_text()
    assert len(set(re.findall(r"/\S*/lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps))) == 1


def test_without_a_compiler_it_says_what_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delitem(sys.modules, NAME, raising=False)  # what was compiled before is forgotten
    reason = import_module(NAME).NativeBackend.missing(pool_of())
    assert re.match(r"native\.cc cannot be compiled; CXX names .*'no-such-compiler'", reason)


def test_what_the_compiler_says_is_told(native: ModuleType, tmp_path: Path) -> None:
    broken = tmp_path / "broken.cc"
    broken.write_text("int half(")
    with pytest.raises(ImportError, match=r"broken\.cc cannot be compiled; .*broken\.cc:1"):
        native.compiled("float", broken)


def test_a_processor_that_cxx_names_is_the_one_compiled_for(
    native: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {told}\nexit 1\n')
    compiler.chmod(0o755)
    for words, march in ((str(compiler), "-march=native"), (f"{compiler} -march=x86-64-v3", "-march=x86-64-v3")):
        monkeypatch.setenv("CXX", words)
        with pytest.raises(ImportError):
            native.compiled.__wrapped__("float")
        assert re.findall(r"-march=\S+", told.read_text().splitlines()[-1]) == [march]
