"""What every result carries: the machine, the versions, medians with their spread. It is saved row by row."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch

import headmap

Isa = Literal["native", "avx2"]
ISAS: tuple[Isa, ...] = ("native", "avx2")
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}  # fmt: skip
"""Instructions that most desktops and many cloud machines end at."""
RESULTS = Path(__file__).parent / "results"


def document(name: str, settings: dict[str, Any], rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A benchmark's result: what was run, where, and the rows."""
    return {
        "benchmark": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"headmap": headmap.__version__}
        | {package: version(package) for package in ("torch", "transformers", "numpy")},
        "commit": _commit(),
        "settings": settings,
        "rows": rows,
        **more,
    }


class Recorder:
    """Takes a benchmark's rows, prints a line about each, and saves after each: an interrupted run still gives rows.

    A result carries `complete`: whether the benchmark came to its end.
    """

    def __init__(self, path: Path | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        self._path, self.say = path, say
        self._rows: dict[Hashable, dict[str, Any]] = {}
        self._result: dict[str, Any] = {}

    def begin(self, name: str, settings: dict[str, Any], *, rows: Sequence[dict[str, Any]] = ()) -> None:
        """`rows` come from an earlier run, which this one adds to."""
        self._rows = dict(enumerate(rows))
        self._result = document(name, settings, [])

    def add(self, row: dict[str, Any], line: str, place: Hashable = None) -> None:
        """A row in the place of the one that was put at `place` before, if any."""
        self._rows[len(self._rows) if place is None else place] = row
        self.say(line)
        self._save(complete=False)

    def end(self, **more: Any) -> dict[str, Any]:
        """The whole result."""
        return self._save(complete=True, **more)

    def _save(self, **more: Any) -> dict[str, Any]:
        self._result |= {"rows": list(self._rows.values()), **more}
        if self._path is not None:
            save(self._result, self._path)
        return self._result


def machine() -> dict[str, Any]:
    """The machine's properties, without its name."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "bfloat16": bfloat16_unit(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def isa() -> Isa:
    """What this process was started to compute with."""
    return "avx2" if all(os.environ.get(name) == value for name, value in AVX2.items()) else "native"


def avx2_environment() -> dict[str, str]:
    """Environment variables that limit torch's libraries and our compiled code to AVX2.

    They are read when libraries load, so set them for a process not yet started.
    """
    return {**os.environ, **AVX2, "CXX": f"{os.environ.get('CXX', 'c++')} -march=x86-64-v3"}


def bfloat16_unit() -> str | None:
    """What this CPU multiplies bfloat16 with: "AMX", many times as fast as float32, "AVX-512", or None."""
    for unit, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512_bf16")):
        if flag in _cpuinfo("flags").split():
            return unit
    return None


def fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 and may use them: then bfloat16 is measured too."""
    return isa() == "native" and bfloat16_unit() == "AMX"


def save(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def in_turn(variants: dict[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each variant, measured A B A B ...: a drift of the machine's speed affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warmup + repeats):
        for name, run in variants.items():
            started = perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(perf_counter() - started)
    return seconds


def ratios(seconds: dict[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Median and spread (quartiles) of ours / theirs, pair by pair."""
    pairs = sorted(a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True))
    return {"ratio": median(pairs), "ratio_q1": pairs[len(pairs) // 4], "ratio_q3": pairs[(3 * len(pairs)) // 4]}


def milliseconds(values: Sequence[float]) -> float:
    return median(values) * 1e3


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _cpuinfo(field: str) -> str:
    """What the system says of the first core; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def _commit() -> str | None:
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or None
