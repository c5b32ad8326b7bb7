"""The books' benchmark: its rows, its exact figures, and its end where a bar is missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.books import admission, arrivals, figures, lives, missed, run, timings
from benchmarks.books.figures import BARS, SHAPES, VICUNA, Bar, Figures, ModelShape
from benchmarks.report import Recorder
from headmap.engine.scheduler import spare_pages
from headmap.kvcache.pool.books import Books
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.shape import CacheShape
from services.cli.main import app

SMALL = ModelShape("small", 4, CacheShape(3, 2, 16, 2))
SLIDING = ModelShape("sliding", 4, CacheShape(3, 2, 16, 2, window=100, sliding_layers=(0, 2)))


def measured(part: Any, shape: ModelShape, **settings: Any) -> dict[str, dict[str, Any]]:
    record = Recorder()
    record.begin("books", {})
    part.measure(Figures(record, BARS), shape, **settings)
    return {row["figure"]: row for row in record.end()["rows"]}


def test_a_row_says_what_is_measured_and_whether_its_bar_holds(tmp_path: Path) -> None:
    path = tmp_path / "books.json"
    result = run(record=Recorder(path), parts=("admission",))
    assert json.loads(path.read_text())["rows"] == result["rows"]
    assert all(set(row) == {"figure", "shape", "value", "unit", "bar", "holds"} for row in result["rows"])
    barred = [row for row in result["rows"] if row["bar"] is not None]
    assert [(row["figure"], row["shape"], row["bar"]) for row in barred] == [(figures.STARTED, VICUNA.name, 12.0)]
    assert missed(result) == []


@pytest.mark.parametrize(("kind", "holding"), [("at most", (1.0, 2.0)), ("at least", (2.0, 3.0)), ("exactly", (2.0,))])
def test_bars_hold_on_their_own_side(kind: Any, holding: tuple[float, ...]) -> None:
    assert tuple(value for value in (1.0, 2.0, 3.0) if Bar(2.0, kind).holds(value)) == holding


def test_the_command_ends_with_1_where_a_bar_is_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = ["bench", "books", "--short", "--part", "admission", "--json", str(tmp_path / "books.json")]
    assert CliRunner().invoke(app, asked).exit_code == 0
    monkeypatch.setitem(BARS, (figures.STARTED, VICUNA.name), Bar(1e6, "at least"))
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1
    assert "MISSED" in done.output
    assert json.loads((tmp_path / "books.json").read_text())["complete"]
    assert CliRunner().invoke(app, ["bench", "books", "--part", "nothing"]).exit_code == 2


def test_bars_are_of_figures_and_shapes_that_there_are() -> None:
    names = {value for name, value in vars(figures).items() if name.isupper() and isinstance(value, str)}
    shapes = {None, "text alone", *(shape.name for shape in SHAPES)}
    assert all(figure in names and shape in shapes for figure, shape in BARS)


def test_every_figure_of_the_books_has_its_row() -> None:
    rows = measured(timings, SMALL, pages_of_steps=1, repeats=2)
    assert set(rows) == {
        figures.ADMIT, figures.STEP, figures.STEP_MEAN, figures.RELEASE, figures.RELEASE_LONG, figures.PLACE,
    }  # fmt: skip
    assert all(row["value"] > 0 and row["unit"] == "ms" for row in rows.values())


@pytest.mark.parametrize("shape", [SMALL, SLIDING], ids=lambda shape: shape.name)
def test_what_is_told_is_what_is_held(shape: ModelShape) -> None:
    rows = measured(lives, shape, events=150)
    assert [(row["value"], row["holds"]) for row in rows.values()] == [(1.0, True)] * 2


def test_a_page_that_nobody_gives_back_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    clear = Books.release

    def leaky(books: Books, slot: int) -> None:
        clear(books, slot)
        if len(books.free):
            books.free.take(1)

    monkeypatch.setattr(Books, "release", leaky)
    assert not measured(lives, SMALL, events=150)[figures.TOLD]["holds"]


def test_a_graph_that_knows_a_tensor_which_has_moved_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = arrivals.simulate(SMALL, 200)
    assert seen.steps == seen.replayed == 200
    assert (seen.plain, seen.stale) == (0, 0)
    assert 0 < seen.after_join < 200
    assert seen.captured <= 7  # of 1, 2, 4, ... 64 sequences

    append = Books.append

    def moving(books: Books, slots: Any) -> None:
        append(books, slots)
        books.tail.tokens.device = books.tail.tokens.device.clone()

    monkeypatch.setattr(Books, "append", moving)
    assert arrivals.simulate(SMALL, 50).stale > 0


def test_some_are_preempted_where_pages_run_short() -> None:
    assert arrivals.simulate(SMALL, 900).preempted > 0


def test_as_many_start_as_real_books_admit_by_the_rule() -> None:
    paging, plan = Paging(SMALL.cache), SMALL.plan("sparsemm", 2000)
    pool = Pool(
        SMALL.cache, memory_bytes=10 * paging.sequence(plan, 100) * paging.page_bytes, slots=64, max_tokens=100,
        dtype=torch.bfloat16, device=torch.device("meta"),
    )  # fmt: skip
    books, running = pool.books, 0
    while paging.sequence(plan, 1) <= spare_pages(len(books.free), running, books.tail.rows):
        books.admit(plan, 1)
        running += 1
    step = paging.tail(1)
    assert admission.startable(books.free.count, paging.part(plan) + step, step) == running > 10


def test_those_who_run_to_their_ends_are_between_those_at_their_largest_and_those_who_start() -> None:
    part, step, chunks = 20, 4, 8
    pages = 10 * (part + chunks * step)
    running = admission.steadily(pages, part, step, new_tokens=chunks * Paging.page_tokens)
    assert 10 <= running <= admission.startable(pages, part + step, step)


def test_a_step_asks_for_the_pages_that_the_engine_asks_for() -> None:
    cache = timings.meta_cache(SMALL, 64)
    slots = [cache.admit(SMALL.plan("sparsemm")) for _ in range(4)]
    for slot in slots:
        cache.books.seal(slot)
    for number in range(33):
        timings.step(cache, slots)
        assert np.all(cache.books.tail.tokens.host[slots] == number + 1)
