"""Pages in a user's own fonts: any script, words on their side of the line, boxes around their ink."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from headmap.datasets.own_fonts import text_pages
from headmap.datasets.page_folder import PageFolder, write_pages
from headmap.errors import InvalidDataset

HEBREW, CHINESE = "שלום עולם 26", "今日雨"


def make_font(path: Path, characters: str) -> None:
    """Every character is a box, half an em wide and high."""
    names = {ord(char): f"c{index}" for index, char in enumerate(characters)}
    order = [".notdef", *names.values()]
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 500), (500, 500), (500, 0)):
        (pen.lineTo if point != (0, 0) else pen.moveTo)(point)
    pen.closePath()
    box = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, box))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (550, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    folder = tmp_path / "fonts"
    folder.mkdir()
    make_font(folder / "hebrew.ttf", HEBREW)
    make_font(folder / "chinese.ttf", CHINESE)
    (folder / "LICENSE").write_text("of the fonts")
    return folder


def text(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(content, encoding="utf-8")
    return path


def test_words_stand_where_their_script_puts_them_with_boxes_around_their_ink(fonts: Path, tmp_path: Path) -> None:
    make = text_pages(fonts, text(tmp_path, f"{HEBREW}\n\n{CHINESE}"), seed=3)
    write_pages(tmp_path / "pages", 3, make)
    lines: set[str] = set()
    for page, again in zip(PageFolder(tmp_path / "pages"), map(make, range(3)), strict=True):
        assert (page.words, page.image.tobytes()) == (again.words, again.image.tobytes())
        lines |= set(page.text.splitlines())
        pixels = np.asarray(page.image.convert("L")).copy()
        paper = pixels[0, 0]
        for word in page.words:
            x0, y0, x1, y1 = word.box
            inside = pixels[y0:y1, x0:x1] < paper
            assert inside[:, 1:-1].any(0).mean() > 0.8
            assert inside.any(1).all()
            pixels[y0:y1, x0:x1] = paper
        assert (pixels == paper).all()
    assert lines == {HEBREW, CHINESE}  # read from right to left, and without blanks as one word


@pytest.mark.parametrize(
    ("content", "message"),
    [(f"{HEBREW}\n今X", r"text\.txt, line 2: no font in .* missing \['X'\]"), (" \n", r"text\.txt: holds no text")],
)
def test_what_no_font_can_write_is_named(fonts: Path, tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message):
        text_pages(fonts, text(tmp_path, content), seed=0)


def test_what_is_no_font_is_named(fonts: Path, tmp_path: Path) -> None:
    (fonts / "broken.ttf").write_bytes(b"\0\1\0\0 not really")
    with pytest.raises(InvalidDataset, match=r"broken\.ttf: is not a readable font"):
        text_pages(fonts, text(tmp_path, HEBREW), seed=0)
