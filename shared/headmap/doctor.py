"""What a machine offers: devices, memory, compilers, threads, and a trial of each decode backend."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headmap.engine.graphs import CudaCapture
from headmap.engine.memory import spare_memory
from headmap.errors import HeadmapError
from headmap.kvcache.backends.choice import (
    AUTO,
    Choice,
    Tried,
    choose_backend,
    error_bound,
    failure,
    make_backend,
    standard_trial,
    step_milliseconds,
    worst_error,
)
from headmap.kvcache.shape import CacheShape

STANDARD = CacheShape(2, 8, 128, 4, window=256, sliding_layers=(1,))
STANDARD_GROUP = 4
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Tries:
    """The backends on one device in one dtype. choice: None if nothing can serve, `problem` says why.

    graphs: a step of the chosen backend replayed as a CUDA graph.
    """

    device: str
    dtype: str
    choice: Choice | None
    graphs: Tried
    problem: str | None = None


def examine(shape: CacheShape = STANDARD, group: int = STANDARD_GROUP) -> dict[str, Any]:
    """Examine the machine and return JSON data. `serves`: whether some backend gives right results on some device."""
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    tries = [try_device(device, dtype, shape, group) for device in devices for dtype in DTYPES]
    return {
        "torch": torch.__version__,
        "devices": [_told(device) for device in devices],
        "compilers": compilers(),
        "openmp": openmp(),
        "tries": [asdict(one) for one in tries],
        "serves": any(one.choice is not None for one in tries),
    }


def try_device(device: torch.device, dtype: torch.dtype, shape: CacheShape, group: int) -> Tries:
    names = str(device), str(dtype).removeprefix("torch.")
    try:
        choice = choose_backend(AUTO, shape, dtype=dtype, device=device, group=group)
    except HeadmapError as error:
        return Tries(*names, None, Tried("graphs", reason="no backend"), error.detail)
    return Tries(*names, choice, _try_graph(choice.chosen, device, dtype, shape, group))


def _try_graph(name: str, device: torch.device, dtype: torch.dtype, shape: CacheShape, group: int) -> Tried:
    if device.type != "cuda":
        return Tried("graphs", reason=f"{device.type} has none")
    try:
        with torch.cuda.device(device):
            trial = standard_trial(shape, dtype=dtype, device=device, group=group)
            backend = make_backend(name, trial.pool)
            if not backend.capturable:
                return Tried("graphs", reason=f"backend {name} cannot be captured")
            replay, output = CudaCapture()(lambda: trial.run(backend, 0))
            trial.forget(0)
            replay()
            worst, bound = worst_error(output, trial.expected(0)), error_bound(dtype)
            reason = None if worst <= bound else f"wrong by {worst:.1e}, at most {bound:.1e} is right"
            return Tried("graphs", worst, step_milliseconds(replay, device), reason)
    except Exception as error:
        return Tried("graphs", reason=failure(error))


def compilers() -> dict[str, str | None]:
    """The paths of the compilers that backends need."""
    named = {"c++": shlex.split(os.environ.get("CXX", "c++"))[0], "nvcc": "nvcc", "ptxas": "ptxas"}
    return {kind: shutil.which(command) for kind, command in named.items()}


def openmp() -> dict[str, Any]:
    """OpenMP's libraries in this process (two would each have their own threads), its threads, and the usable cores."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        maps = ""
    return {
        "libraries": sorted(set(re.findall(r"/\S*/lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps))),
        "threads": torch.get_num_threads(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "settings": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "KMP_", "GOMP_"))},
    }


def _told(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": str(device), "name": name, "kv_memory_bytes": spare_memory(device)}
