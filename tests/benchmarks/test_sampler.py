"""The sampler's benchmark, on a small vocabulary."""

from __future__ import annotations

from benchmarks.report import Recorder
from benchmarks.sampler import run


def test_each_figure_is_a_row_with_its_bar() -> None:
    result = run(record=Recorder(), vocab=300, sequences=3, repeats=1)
    assert result["complete"]
    bars = {row["figure"]: row["bar"] for row in result["rows"]}
    assert bars["sampling: all greedy"] == 15
    assert bars["sampling: all at temperature 0.7"] == 60
    for row in result["rows"]:
        assert set(row) == {"figure", "shape", "value", "unit", "bar", "holds"}
        assert row["holds"] == (row["bar"] is None or row["value"] <= row["bar"])
