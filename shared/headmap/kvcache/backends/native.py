"""Decode attention on a CPU as one pass over keys and values, in C++ compiled for this processor.

The torch backend (`torch_ops`) needs a dozen operations, and each one passes over memory again. `native.cc` is compiled
for a dtype at its first use in a process. The library is built in a temporary folder, so no binary is shipped per
processor, and no file stays on disk that others could replace. This needs a C++ compiler: CXX if it is set, otherwise
c++.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
from ctypes import CDLL, Structure, byref, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.pool.free import Int32s
from headmap.kvcache.pool.pool import Pool

SOURCE = Path(__file__).with_suffix(".cc")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
SECONDS = 60
"""The time limit of the compiler."""
ELEMENTS = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
LANES = 16
"""The maximum number of elements processed at once. Head dimensions and pages are multiples of it."""


class NativeBackend(DecodeBackend):
    """The C++ backend. It rounds its inputs to the pool's dtype; the output has the dtype of the queries."""

    name = "native"

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        library = compiled(ELEMENTS[pool.keys.dtype])
        self._attend, self._write = library.attend_step, library.write_pages
        self._layers = [_Layer.of(pool, layer_idx) for layer_idx in range(pool.shape.num_layers)]
        self._references = [byref(layer) for layer in self._layers]

    @staticmethod
    def missing(pool: Pool) -> str | None:
        if pool.device.type != "cpu":
            return f"it runs on a CPU, not on {pool.device}"
        if pool.keys.dtype not in ELEMENTS:
            return f"it knows no {pool.keys.dtype}"
        for what, size in (("head_dim", pool.shape.head_dim), ("page_tokens", pool.page_tokens)):
            if size % LANES:
                return f"{what} {size} is no multiple of {LANES}"
        try:
            compiled(ELEMENTS[pool.keys.dtype])
        except ImportError as error:
            return str(error)
        return None

    def attend(
        self,
        layer_idx: int,
        slots: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        own, key, value = self._ready(queries), self._ready(keys), self._ready(values)
        slots, output = slots.contiguous(), torch.empty_like(own)
        self._attend(
            self._references[layer_idx], slots.data_ptr(), len(slots), own.shape[2],
            own.data_ptr(), key.data_ptr(), value.data_ptr(),
            scaling * math.log2(math.e), output.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return output if output.dtype is queries.dtype else output.to(queries.dtype)

    def write(self, pages: Int32s, source: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill whole pages directly from a prompt's keys and values, without gathering them first.

        `pages`: (p,). `source`: (p * page_tokens,) int64, the row of `keys` and `values` for each place, or -1 if the
        place stays free. `keys`, `values`: (T, head_dim). Ranges are not checked.
        """
        dtype = self.pool.keys.dtype
        key, value = (t.to(dtype) if t.stride(-1) == 1 else t.to(dtype).contiguous() for t in (keys, values))
        self._write(
            self._references[0], pages.ctypes.data, len(pages), source.data_ptr(),
            key.data_ptr(), key.stride(0), value.data_ptr(), value.stride(0), torch.get_num_threads(),
        )  # fmt: skip

    def _ready(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self.pool.keys.dtype
        # This check avoids `to`, which takes a microsecond even if it does nothing.
        return tensor if tensor.dtype is dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


class _Layer(Structure):
    """The struct `Layer` of `native.cc`."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "part_pages", "part_starts", "part_tokens")),
        *((name, c_void_p) for name in ("chunk_pages", "chunks", "tail_tokens", "write_at")),
        *((name, c_int64) for name in ("rows", "width", "first_row", "heads", "d", "size")),
    )

    @classmethod
    def of(cls, pool: Pool, layer_idx: int) -> _Layer:
        books, tails = pool.books, pool.books.tails_of(layer_idx)
        starts, tokens = books.part_starts.device[layer_idx], books.part_tokens.device[layer_idx]
        of_tail = (tails.chunk_pages.device, tails.chunks.device, tails.tokens.device, tails.write_at.device)
        tensors = (pool.keys, pool.values, books.part_pages.device, starts, tokens, *of_tail)
        return cls(
            *(tensor.data_ptr() for tensor in tensors),
            tails.rows,
            tails.chunks.device.shape[1],
            tails.first_row(layer_idx),
            pool.shape.num_kv_heads,
            pool.shape.head_dim,
            pool.page_tokens,
        )


@cache
def compiled(element: str, source: Path = SOURCE) -> CDLL:
    """Compile the library for pools of `element`, a C++ type. Raises ImportError if this fails."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    chosen = any(word.startswith(("-march=", "-mcpu=")) for word in compiler)
    try:
        with TemporaryDirectory(prefix="headmap-") as folder:
            made, library = Path(folder) / "native.o", Path(folder) / "native.so"
            flags = FLAGS if chosen else (*FLAGS, "-march=native")
            _run(*compiler, *flags, f"-DElement={element}", "-c", str(source), "-o", str(made))
            _run(*compiler, "-shared", str(made), _openmp(), "-o", str(library))
            return _declared(CDLL(str(library)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise ImportError(f"{source.name} cannot be compiled; CXX names the compiler: {error} {said[:500]}") from error


def _declared(library: CDLL) -> CDLL:
    attend, write = library.attend_step, library.write_pages
    attend.argtypes = [c_void_p, c_void_p, c_int64, c_int64, *[c_void_p] * 3, c_float, c_void_p, c_int64]
    write.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int64]
    attend.restype = write.restype = None
    return library


def _openmp() -> str:
    """Find the OpenMP library to link. It is the library that torch uses, so both share one set of threads."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return "-fopenmp"
    found = re.search(r"/\S*/lib(gomp|iomp5|omp)\b\S*\.so\S*", maps)
    return found[0] if found else "-fopenmp"


def _run(*command: str) -> None:
    settings = {**os.environ, "LC_ALL": "C"}  # compiler messages in English
    # S603: this runs the compiler that the user named, on our own source
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS, env=settings)  # noqa: S603
