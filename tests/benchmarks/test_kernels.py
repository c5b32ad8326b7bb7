"""The benchmark of attention by itself, on a CPU, a tiny shape and Triton's interpreter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import kernels
from benchmarks.report import Recorder
from benchmarks.shapes import TINY

SETUP = kernels.Setup(
    shape=TINY, prompts=(80,), batches=(2,), budget=32, repeats=1, device="cpu", dtype="float32", copied_bytes=2**20
)


def test_each_method_has_its_time_its_floor_and_is_right(tmp_path: Path) -> None:
    result = kernels.run(record=Recorder(tmp_path / "kernels.json"), setup=SETUP)
    assert result["rows"] == json.loads((tmp_path / "kernels.json").read_text())["rows"]
    rows = {row["method"]: row for row in result["rows"]}
    kept = {"sparsemm": 32 + 16, "full": 80 + 16, "sdpa": 80}
    token = 2 * TINY.num_layers * TINY.num_kv_heads * TINY.head_dim * 2 * 4
    assert {name: row["kv_bytes"] for name, row in rows.items()} == {name: n * token for name, n in kept.items()}
    assert all(row["step_ms"] > 0 and row["floor_ms"] > 0 for row in rows.values())
    assert max(rows["sparsemm"]["error"], rows["full"]["error"]) < 1e-5


def test_what_does_not_fit_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise kernels.OutOfMemory("too much")

    monkeypatch.setattr(kernels, "make_trial", refuse)
    (row,) = kernels.run(record=Recorder(), setup=replace(SETUP, methods=("full",)))["rows"]
    assert row["missing"] == "too much"
