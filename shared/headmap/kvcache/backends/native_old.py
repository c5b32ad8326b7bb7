"""Decode attention on a CPU as one pass over keys and values, in C++ compiled for this very processor.

In torch it takes a dozen operations, each with its own trip through memory (`blocked`); in one function it takes half
the time. Importing this module compiles `native.cc`, into a folder that is gone afterwards: there is nothing to ship
for each kind of processor, and nothing on disk that another could exchange. Raises ImportError where there is no C++
compiler (CXX, else c++), or where it says no.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
from ctypes import CDLL, c_float, c_int64, c_void_p
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from headmap.kvcache.backends import blocked
from headmap.kvcache.store import LayerStore

SOURCE = Path(__file__).with_suffix(".cc")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
SECONDS = 60
"""A compiler that has not ended by then is given up."""
LANES = 16
"""Floats that the function takes at a time, as in its source."""


def attend(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """As `blocked.attend`, which also does what this one does not: float16, and head dimensions and block sizes that
    are no multiple of LANES."""
    rows, group, d = queries.shape
    size = store.keys.shape[1]
    function = _FUNCTIONS.get(store.keys.dtype)
    if function is None or d % LANES or size % LANES or not store.used:
        return blocked.attend(queries, store, scaling)
    used = store.in_use(rows)
    order, starts = used.by_row
    own = queries.float().contiguous()
    output = torch.empty_like(own)
    function(
        own.data_ptr(), used.keys.data_ptr(), used.values.data_ptr(), used.bias.data_ptr(),
        order.data_ptr(), starts.data_ptr(), rows, group, size, d,
        scaling * math.log2(math.e), output.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return output.to(queries.dtype)


def compiled(source: Path = SOURCE) -> CDLL:
    """The library of a C++ source file. Raises ImportError as the module does."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    try:
        with TemporaryDirectory(prefix="headmap-") as folder:
            made, library = Path(folder) / "native.o", Path(folder) / "native.so"
            _run(*compiler, *FLAGS, "-c", str(source), "-o", str(made))
            _run(*compiler, "-shared", str(made), _openmp(), "-o", str(library))
            return CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise ImportError(f"{source.name} cannot be compiled; CXX names the compiler: {error} {said[:500]}") from error


def _openmp() -> str:
    """What to link OpenMP with: the library that torch runs its own threads in, so that there are not two sets."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "-fopenmp"
    found = re.search(r"/\S*/lib(gomp|iomp5|omp)\b\S*\.so\S*", maps)
    return found[0] if found else "-fopenmp"


def _run(*command: str) -> None:
    settings = {**os.environ, "LC_ALL": "C"}  # messages in English
    # S603: what runs is the compiler that whoever starts this process has named, on our own source
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS, env=settings)  # noqa: S603


_LIBRARY = compiled()
_FUNCTIONS = {torch.float32: _LIBRARY.attend_float32, torch.bfloat16: _LIBRARY.attend_bfloat16}
for _function in _FUNCTIONS.values():
    _function.argtypes = [*[c_void_p] * 6, *[c_int64] * 4, c_float, c_void_p, c_int64]
    _function.restype = None
