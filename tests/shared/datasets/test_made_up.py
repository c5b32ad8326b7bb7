"""Made-up pages of every kind: the same on any machine, and true to what they say about themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headmap.datasets.made_up import effects
from headmap.datasets.made_up.canvas import Canvas, Placement, Style
from headmap.datasets.made_up.fonts import CHECKSUMS, FOLDER, TYPEFACES, Face
from headmap.datasets.made_up.languages import all_languages
from headmap.datasets.sources import MADE_UP
from headmap.errors import Unavailable
from headmap.scoring.pages import CELL, Page

KINDS = ("documents", "forms", "tables", "receipts", "scenes")

FIRST_PAGES = {
    "documents": "0c0b93e307a066b02a647f10f2d401e3",
    "forms": "fecbee6fcac06296ab62a6c673eb3cdc",
    "tables": "f99209de96aaaefbb0998609b6820c9b",
    "receipts": "c3c3ea10567dd514b0f2f076e6c8430a",
    "scenes": "236ec9800128d2a9faeb207c7d378593",
    "synthetic-long": "c4c6d42454e486c093c6048e2227f43b",
    "plain-forms": "3946bb79ec46f0033a1aa8485fde9b61",
    "plain-receipts": "cc4f4009b574993435e002993f61ad70",
    "plain-notes": "9497504f7d4ed6ebb83a1392b958acb1",
}


def pixels(page: Page) -> bytes:
    return np.asarray(page.image).tobytes()


@pytest.mark.parametrize("kind", FIRST_PAGES)
def test_pixels_are_those_of_every_other_machine(kind: str) -> None:
    page = MADE_UP[kind](0, 0)
    assert page.image.mode == "RGB"
    assert hashlib.sha256(pixels(page)).hexdigest()[:32] == FIRST_PAGES[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seed", "index"), [(0, 1), (7, 0), (2**63 - 1, 99_999)])
def test_a_page_is_true_to_what_it_says(kind: str, seed: int, index: int) -> None:
    page = MADE_UP[kind](seed, index)
    grey = np.asarray(page.image.convert("L"), dtype=int)
    for word in page.words:
        x0, y0, x1, y1 = word.box
        assert 0 <= x0 < x1 <= page.image.width
        assert 0 <= y0 < y1 <= page.image.height
        assert word.text.split() == [word.text]
        box = grey[y0:y1, x0:x1]
        assert box.max() - box.min() > 30, f"{word} cannot be seen"
    text = " ".join(word.text for word in page.words)
    assert page.questions
    assert len({question.question for question in page.questions}) == len(page.questions)
    for question in page.questions:
        assert f" {question.answer} " in f" {text} ", f"{question} is not on the page"


@pytest.mark.parametrize("kind", ["forms", "tables"])
def test_a_page_is_drawn_from_seed_and_index_alone(kind: str) -> None:
    first, again, next_, other = (MADE_UP[kind](*place) for place in ((5, 1), (5, 1), (5, 2), (6, 1)))
    assert (pixels(first), first.words, first.questions) == (pixels(again), again.words, again.questions)
    assert len({first.words, next_.words, other.words}) == 3


def test_the_mixed_kind_takes_all_in_turn() -> None:
    assert [MADE_UP["mixed"](3, index).words for index in (1, 5)] == [
        MADE_UP["forms"](3, 1).words,
        MADE_UP["documents"](3, 5).words,
    ]


def test_all_kinds_are_named() -> None:
    assert set(MADE_UP) == {"synthetic", "mixed", *FIRST_PAGES}


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("synthetic-long", 1000, 1100), *((f"plain-{one}", 300, 1500) for one in ("forms", "receipts", "notes"))],
)
def test_a_page_on_the_grid_has_one_character_a_cell(kind: str, least: int, most: int) -> None:
    for index in range(8):
        page = MADE_UP[kind](11, index)
        rows, cols = page.image.height // CELL, page.image.width // CELL
        assert least <= rows * cols <= most
        for word in page.words:
            assert word.box[2] - word.box[0] == len(word.text) * CELL - 2
        for question in page.questions:
            assert question.answer in page.text or question.answer == str(len(page.text.split("\n")))
        assert len({question.question for question in page.questions}) == len(page.questions)


def test_every_language_has_fonts_of_several_designs() -> None:
    for name, language in all_languages().items():
        assert sum(typeface.writes(language.text) for typeface in TYPEFACES) >= 4, name
        assert all(vars(language).values()), name


# ---- canvas


@pytest.fixture(params=[(0, 0), (40, 0), (-70, 100)], ids=["straight", "turned", "slanted"])
def placement(request: pytest.FixtureRequest) -> Callable[[Canvas], None]:
    slope, slant = request.param

    def put(canvas: Canvas) -> None:
        canvas.placement = Placement.turned(slope, (100, 60), slant)

    return put


@pytest.mark.parametrize("font", CHECKSUMS)
def test_a_box_holds_all_ink_of_its_word_and_nothing_else(font: str, placement: Callable[[Canvas], None]) -> None:
    canvas = Canvas(200, 120)
    placement(canvas)
    canvas.write("Wj8 g", 40, 70, Style(font, 40, (0, 0, 0)))
    ink = (canvas.paint(effects.plain(200, 120, (255, 255, 255)))[..., 0] < 250).astype(int)
    assert [word.text for word in canvas.words] == ["Wj8", "g"]
    for word in canvas.words:
        x0, y0, x1, y1 = word.box
        inside = ink[y0:y1, x0:x1]
        assert inside[:2].any()
        assert inside[-2:].any()
        assert inside[:, :2].any()
        assert inside[:, -2:].any()
        ink[y0:y1, x0:x1] = 0
    assert not ink.any()


def test_a_turn_keeps_lengths_and_its_centre() -> None:
    points = np.array([[6400, 6400], [6400 + 6400, 6400]])
    centre, end = Placement.turned(100, (100, 100)).apply(points)
    assert centre.tolist() == [6400, 6400]
    assert abs(np.hypot(*(end - centre)) - 6400) < 2
    assert end[1] > centre[1], "clockwise, as y goes down"


def test_a_word_off_the_page_is_an_error() -> None:
    with pytest.raises(ValueError, match="'out'"):
        Canvas(100, 100).write("out", 300, 50, Style("DejaVuSans.ttf", 12))


def test_another_edition_of_a_font_is_refused(tmp_path: Path) -> None:
    edited = tmp_path / "DejaVuSans.ttf"
    edited.write_bytes((FOLDER / "DejaVuSans.ttf").read_bytes() + b" ")
    with pytest.raises(Unavailable, match=r"DejaVuSans\.ttf"):
        Face(edited, CHECKSUMS["DejaVuSans.ttf"])
