"""The comparison of kernel settings, in Triton's interpreter: what is wrong or fails is never the fastest."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import kernel_settings
from benchmarks.report import Recorder
from tests.benchmarks.test_kernels import SETUP


def row(step_ms: float | None, *, prompt: int = 64, error: float = 1e-6, **knobs: int) -> dict[str, Any]:
    measured = {"missing": "too large"} if step_ms is None else {"step_ms": step_ms, "error": error}
    return {"method": "full", "prompt_tokens": prompt, "batch": 1, **knobs, **measured}


def test_every_setting_has_a_row_for_every_case() -> None:
    result = kernel_settings.run(
        record=Recorder(), setup=SETUP, cases=(("full", 40, 1), ("sparsemm", 80, 2)), settings=({}, {"tile_tokens": 16})
    )
    assert len(result["rows"]) == 2 * 2 * len({row["programs"] for row in result["rows"]})
    assert max(row["error"] for row in result["rows"]) < 1e-5
    assert all(row["step_ms"] > 0 and row["floor_ms"] > 0 for row in result["rows"])
    assert len(result["fastest"]) <= 5


def test_the_fastest_are_right_in_every_case() -> None:
    rows = [
        *(row(4.0, prompt=prompt, programs=3) for prompt in (64, 128)),
        *(row(ms, prompt=prompt, programs=3, warps=8) for prompt, ms in ((64, 2.0), (128, 4.5))),
        *(row(1.0, prompt=prompt, programs=3, warps=2, error=0.5) for prompt in (64, 128)),
        *(row(ms, prompt=prompt, programs=6) for prompt, ms in ((64, 0.5), (128, None))),
    ]
    (ratio, best), (base, default) = kernel_settings.fastest(rows)
    assert (ratio, best) == (pytest.approx((0.5 * 1.125) ** 0.5), {"programs": 3, "warps": 8})
    assert (base, default) == (1.0, {"programs": 3})
