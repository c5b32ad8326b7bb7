"""Tables of results, from made-up results."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import heads_table, reading_table


def share(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - 0.1, value + 0.05], "n": 40}


def test_how_well_pages_are_read_has_a_row_for_each_kind_measured() -> None:
    kind = {"picture_first": share(0.9), "text_first": share(0.85), "visual_tokens": 1072}
    table = reading_table({"seed": 9000, "pages": 40, "synthetic-long": kind, "plain-notes": kind})
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| the same, longer | 1,072 | 90% (80% to 95%) of 40 | 85% (75% to 90%) of 40 |",
        "| notes | 1,072 | 90% (80% to 95%) of 40 | 85% (75% to 90%) of 40 |",
    ]
    assert "seed 9000" in table


def test_the_layers_of_the_top_heads_are_told_where_they_were_measured() -> None:
    row = {"what": "sparsity", "share": 0.05, "heads": 3, "held": 0.7}
    result = {
        "settings": {"map_pages": 8},
        "rows": [row, row | {"layers": {"4": 2, "11": 1}}],
        "machine": {"cpu": "a CPU", "cores": 2},
        "versions": {"torch": "2", "transformers": "5"},
    }
    first, second = heads_table(result).splitlines()[:2]
    assert first == "- The top 5% of the heads (3) hold 70.0% of the score."
    assert second == "- The top 5% of the heads (3) hold 70.0% of the score and lie in layers 4 (2), 11 (1)."
