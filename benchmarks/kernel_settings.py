"""Compare settings of the Triton kernels: the time of all layers' attention by tile, warps, stages and splits.

The first settings are the backend's own defaults. Each is compared with float64, as a wrong one can be fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any

import torch

from benchmarks.gpu import copy_bandwidth
from benchmarks.kernels import Filled, Setup, fill_pool, time_backend
from benchmarks.report import Recorder
from headmap.kvcache.backends.triton_pages import TritonBackend, default_programs

CASES = (("sparsemm", 2048, 1), ("sparsemm", 2048, 8), ("full", 8192, 1), ("full", 8192, 8))
"""Method, tokens of a prompt, batch."""
Settings = dict[str, int]
SETTINGS: tuple[Settings, ...] = (
    {},
    {"split_tokens": 64},
    {"split_tokens": 128},
    {"stages": 4},
    {"stages": 2},
    {"warps": 8},
    {"warps": 2},
    {"tile_tokens": 32},
    {"tile_tokens": 32, "warps": 2, "stages": 4},
    {"tile_tokens": 128, "warps": 8},
    {"tile_tokens": 128, "warps": 8, "stages": 2},
)
PROGRAMS_PER_PROCESSOR = (3, 2, 4, 6)
KNOBS = ("programs", "tile_tokens", "warps", "stages", "split_tokens")
WRONG = 0.05
"""A larger error than rounding explains."""


def run(
    *,
    record: Recorder,
    setup: Setup | None = None,
    cases: Sequence[tuple[str, int, int]] = CASES,
    settings: Sequence[Settings] = SETTINGS,
    per_processor: Sequence[int] = PROGRAMS_PER_PROCESSOR,
) -> dict[str, Any]:
    """Measure every setting with every number of programs in every case, a row each.

    A row whose kernel fails has `missing` with the reason, and no time.
    """
    setup = setup or Setup()
    record.begin("kernel-settings", {**vars(setup), "shape": setup.shape.name})
    bandwidth = copy_bandwidth(setup.device, setup.copied_bytes)
    device = torch.device(setup.device)
    rows: list[dict[str, Any]] = []
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    for method, prompt, batch in cases:
        filled = fill_pool(setup, method, prompt, batch)
        floor = filled.kv_bytes / bandwidth * 1e3
        for given in settings:
            for programs in dict.fromkeys((default_programs(device), *(count * processors for count in per_processor))):
                row = {
                    "method": method,
                    "prompt_tokens": prompt,
                    "batch": batch,
                    "floor_ms": floor,
                    "programs": programs,
                }
                row |= given | _timed(filled, given, programs, setup)
                told = f"{row['step_ms']:.3f} ms, floor {floor:.3f}" if "step_ms" in row else row["missing"]
                rows.append(row)
                record.add(row, f"{method:9} {prompt:6} x {batch}  {programs:5} programs {given}  {told}")
    found = fastest(rows)[:5]
    for ratio, given in found:
        record.say(f"{ratio:.2f} of the defaults' time: {given}")
    return record.end(fastest=found)


def _timed(filled: Filled, given: Settings, programs: int, setup: Setup) -> dict[str, Any]:
    backend = TritonBackend(filled.trial.pool, programs=programs, **given)
    try:
        return dict(time_backend(filled, backend, setup))
    except Exception as error:  # whatever a compiler or a driver raises for a program that is too large
        return {"missing": f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"}


def fastest(rows: Sequence[dict[str, Any]]) -> list[tuple[float, dict[str, int]]]:
    """Return the settings with their step times relative to the first row of each case, the fastest first.

    The figure is the geometric mean over the cases. Settings that fail or are wrong in any case are left out.
    """
    base: dict[tuple[Any, ...], float] = {}
    ratios: dict[tuple[tuple[str, int], ...], list[float]] = {}
    for row in rows:
        case = tuple(row[name] for name in ("method", "prompt_tokens", "batch"))
        settings = tuple(sorted((name, value) for name, value in row.items() if name in KNOBS))
        ratios.setdefault(settings, [])
        if "step_ms" in row and row["error"] < WRONG:
            ratios[settings].append(row["step_ms"] / base.setdefault(case, row["step_ms"]))
    whole = [(geometric_mean(found), dict(of)) for of, found in ratios.items() if len(found) == len(base) > 0]
    return sorted(whole, key=lambda one: one[0])
