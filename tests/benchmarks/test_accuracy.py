"""Kinds of questions: what they ask, in which order, and the table that sets their selectors side by side."""

from __future__ import annotations

from benchmarks.accuracy import KINDS, questions_of, readings_of
from benchmarks.report import document
from benchmarks.tables import kinds_table
from headmap.datasets.sources import DEFAULT
from headmap.scoring.pages import make_page


def test_every_kind_asks_about_the_same_pages_and_knows_the_answers() -> None:
    asked = {kind: questions_of(kind, pages=2, seed=71) for kind in KINDS}
    plain = asked["lookup"]
    assert [one.answers for one in asked["suffix"]] == [one.answers for one in plain]
    assert [one.answers for one in asked["text-first"]] == [one.answers for one in plain]
    assert all(long.text.startswith(f"{one.text}\n") for long, one in zip(asked["suffix"], plain, strict=True))
    assert [one.text_first for one in (*plain, *asked["text-first"])] == [False] * len(plain) + [True] * len(plain)
    assert [one.answers for one in asked["counting"]] == [(str(len(make_page(71, page).words)),) for page in (0, 1)]


def test_pages_are_read_aloud_in_either_order_and_no_other_kind_reads_them() -> None:
    read = {kind: readings_of(kind, 2, 71, DEFAULT) for kind in KINDS}
    assert {kind: len(of) for kind, of in read.items()} == {"lookup": 2, "suffix": 0, "text-first": 2, "counting": 0}
    assert [one.text_first for one in (*read["lookup"], *read["text-first"])] == [False, False, True, True]


def test_kinds_and_selectors_stand_side_by_side() -> None:
    def row(kind: str, method: str, ratio: float, select: str | None, right: float) -> dict[str, object]:
        interval = {"accuracy_low": right - 0.1, "accuracy_high": right + 0.05}
        return {
            "kind": kind,
            "method": method,
            "ratio": ratio,
            "select": select,
            "lookups": 8,
            "accuracy": right,
        } | interval

    rows = [
        row("lookup", "full", 1.0, None, 1.0) | {"transcription": 0.9},
        row("lookup", "sparsemm", 0.1, "mixkv", 0.75) | {"transcription": 0.3},
        row("lookup", "sparsemm", 0.05, "mixkv", 0.5) | {"transcription": 0.2},
        row("counting", "full", 1.0, None, 0.0),
        row("counting", "sparsemm", 0.05, "snapkv", 0.25),
        row("counting", "sparsemm", 0.1, "snapkv", 0.125),
    ]
    text = kinds_table(document("accuracy", {"pages": 2, "question_seed": 71}, rows))
    assert "| question | number | full cache | selector | 5% | 10% |" in text
    assert "| lookup | 8 | 100% / 90% | mixkv | 50% / 20% | 75% / 30% |" in text
    assert "| counting | 8 | 0% | snapkv | 25% | 12% |" in text
    assert "pages of seed 71; 95 % intervals are within 10% points" in text
