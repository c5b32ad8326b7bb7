"""Figures: intervals, ratios pair by pair, tables filled between their marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import render
from benchmarks.report import document, in_turn, ratios, save, wilson


def test_wilson_is_the_published_interval() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 10)[0] == 0
    assert wilson(0, 0) == (0, 1)


def test_ratios_are_medians_of_pairs() -> None:
    assert ratios({"a": [1, 2, 30], "b": [2, 2, 10]}, "a", "b")["ratio"] == 1


def test_variants_take_turns() -> None:
    order: list[str] = []
    in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1)
    assert order == ["a", "b"] * 3


def test_tables_stand_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "model": "small", "pages": 8, "prompt_tokens": 300, "answer_tokens": 100, "ours_pages_per_minute": 60.0,
        "plain_pages_per_minute": 2.0, "speedup": 30.0, "passes": 1.1, "same_scores": True,
    }  # fmt: skip
    workers = [{"workers": 2, "pages": 8, "seconds": 3.0, "share": 0.5}]
    save(document("scoring", {}, [row], workers=workers), tmp_path / "scoring.json")
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- bench scoring -->\nold\n<!-- /bench -->\nbetween\n<!-- bench heads -->\nx\n<!-- /bench -->\n"
    )
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "PAGES", (page,))
    assert render.main() == 0
    text = page.read_text()
    assert "| small | 300 + 100 | 8 | 60.0 | 2.0 | **30.0** | yes | 1.10 |" in text
    assert "| 2 | 8 | 3.0 | 0.50 |" in text
    assert "old" not in text
    assert text.startswith("above\n")
    assert "<!-- bench heads -->\nNot measured yet.\n<!-- /bench -->" in text
    assert "not measured on a GPU" in text
    render.main()
    assert page.read_text() == text
