"""Synthetic pages: pictures of text with known words, boxes and answers.

A page depends only on `(seed, index)` and has the same pixels on any machine. Random numbers come from
`random.Random(str).random()` and SHAKE-256. Glyphs come from a small atlas in the package, not from an installed font
library. All pixel arithmetic uses integers.

A page is a grid of 16 x 16 px cells with one character per cell. Each line has the form `KEY:VALUE`. A filled square
after the last character marks the end of the page; it is not a word.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TypeVar

import numpy as np
from PIL import Image

from headmap.scoring.page import Page as Page
from headmap.scoring.page import Question as Question
from headmap.scoring.page import Word as Word
from headmap.scoring.page import right_to_left as right_to_left

CELL = 16
"""Side of a cell in pixels."""

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Letters on pages: without I and O, as on number plates, since they look like 1 and 0."""

CHARACTERS = LETTERS + "0123456789"
PAGE_CHARACTERS = CHARACTERS + ":"
"""All characters on the pages of `make_page`."""

ATLAS_CHARACTERS = PAGE_CHARACTERS + "".join(sorted({chr(code) for code in range(33, 127)} - set(PAGE_CHARACTERS)))
"""The columns of `glyphs.png`, from left to right: all of printable ASCII but the space."""

FONT_SIZES = (14, 15, 16)
"""The rows of `glyphs.png`, from top to bottom, in pixels."""

MIN_CELLS, MAX_CELLS = 200, 500
MIN_TEXT_SHARE, MAX_TEXT_SHARE = 0.25, 0.45
MAX_QUESTIONS = 4
TRANSCRIBE_PROMPT = "Provide all the OCR results of this image."

T = TypeVar("T")


def make_page(seed: int, index: int) -> Page:
    """Draw page `index` of the series `seed`."""
    return draw_page(f"page/{int(seed)}/{int(index)}", min_lines=8, max_lines=14)


def draw_page(
    stream: str,
    min_lines: int,
    max_lines: int,
    min_cells: int = MIN_CELLS,
    max_cells: int = MAX_CELLS,
) -> Page:
    """Draw the page of a named stream of random numbers.

    Args:
        stream: name of the stream; `make_page` uses `page/SEED/INDEX`, so other names never give its pages.
        min_lines: the minimum number of text lines; `max_lines` is the maximum.
        min_cells: the minimum number of 16 x 16 px cells; `max_cells` is the maximum.
    """
    draw = Draw(stream)
    entries = _entries(draw, draw.integer(min_lines, max_lines))
    texts = [f"{key}:{value}" for key, value in entries]
    layout = _layout(draw, texts, min_cells, max_cells)
    places = [(layout.top + number * layout.pitch, layout.left) for number in range(len(texts))]
    image = render_cells(draw, (layout.rows, layout.cols), texts, places, stream)
    words = tuple(
        Word(text, (col * CELL + 1, row * CELL + 1, (col + len(text)) * CELL - 1, (row + 1) * CELL - 1))
        for text, (row, col) in zip(texts, places, strict=True)
    )
    asked = draw.sample(entries, min(MAX_QUESTIONS, len(entries)))
    questions = tuple(Question(f"What is the value of {key}?", value) for key, value in asked)
    return Page(image, words, questions)


class Draw:
    """Random choices that use only `random()`, the one method that is guaranteed stable over Python versions."""

    def __init__(self, stream: str) -> None:
        self._random = random.Random(stream)

    def integer(self, low: int, high: int) -> int:
        """Draw an integer from `low` to `high`, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def string(self, alphabet: str, low: int, high: int) -> str:
        return "".join(alphabet[self.integer(0, len(alphabet) - 1)] for _ in range(self.integer(low, high)))

    def choice(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: list[T], count: int) -> list[T]:
        left = list(items)
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]


@dataclass(frozen=True)
class _Layout:
    """The layout of a page in cells. `pitch` is the distance between two lines."""

    rows: int
    cols: int
    top: int
    left: int
    pitch: int


def _entries(draw: Draw, count: int) -> list[tuple[str, str]]:
    """Draw the keys and values of a page.

    No pair of adjacent characters occurs twice, including pairs over line ends. Therefore the last two characters
    determine the next position, and no key is the end of another key.
    """
    entries: list[tuple[str, str]] = []
    taken: set[str] = set()
    while len(entries) < count:
        key, value = draw.string(LETTERS, 3, 4), draw.string(CHARACTERS, 4, 7)
        line = f"\n{key}:{value}\n"
        pairs = [line[place : place + 2] for place in range(len(line) - 1)]
        if len(set(pairs)) == len(pairs) and taken.isdisjoint(pairs):
            taken.update(pairs)
            entries.append((key, value))
    return entries


def _layout(draw: Draw, texts: list[str], min_cells: int, max_cells: int) -> _Layout:
    """Draw margins until the page has the wanted size and density.

    Raises ValueError for too few characters to fill the smallest page.
    """
    longest = max(map(len, texts))
    inked = sum(map(len, texts))
    if inked < MIN_TEXT_SHARE * min_cells:
        raise ValueError(f"min_cells: {inked} characters cannot fill {min_cells} cells by {MIN_TEXT_SHARE:.0%}")
    while True:
        pitch = draw.integer(1, 2)
        top, bottom, left, right = draw.integer(0, 4), draw.integer(0, 4), draw.integer(0, 8), draw.integer(1, 8)
        rows = top + (len(texts) - 1) * pitch + 1 + bottom
        cols = left + longest + right
        dense_enough = MIN_TEXT_SHARE <= inked / (rows * cols) <= MAX_TEXT_SHARE
        if min_cells <= rows * cols <= max_cells and dense_enough:
            return _Layout(rows, cols, top, left, pitch)


@lru_cache(maxsize=1)
def _atlas() -> np.ndarray:
    """Glyph coverage `[size, character, CELL, CELL]`, 0 to 255."""
    with files(__package__).joinpath("glyphs.png").open("rb") as file, Image.open(file) as image:
        flat = np.asarray(image.convert("L"), dtype=np.int32)
    return flat.reshape(len(FONT_SIZES), CELL, len(ATLAS_CHARACTERS), CELL).transpose(0, 2, 1, 3).copy()


def render_cells(
    draw: Draw, shape: tuple[int, int], texts: Sequence[str], places: Sequence[tuple[int, int]], stream: str
) -> Image.Image:
    """Draw a page of `shape` (rows, columns) cells, with the page's end marked.

    Args:
        draw: where its shades and shifts come from.
        texts: printable ASCII, a character a cell; spaces stay blank.
        places: row and column of each text's first cell.
        stream: name of the stream that gives the paper's noise.
    """
    height, width = shape[0] * CELL, shape[1] * CELL
    ink = np.zeros((height + 2, width + 2), dtype=np.int32)  # one pixel on each side for the jitter
    glyphs = _atlas()[draw.integer(0, len(FONT_SIZES) - 1)]
    for text, (row, col) in zip(texts, places, strict=True):
        x, y = col * CELL + 1 + draw.integer(-1, 1), row * CELL + 1 + draw.integer(-1, 1)
        for offset, character in enumerate(text):
            if character == " ":
                continue
            glyph = glyphs[ATLAS_CHARACTERS.index(character)]
            spot = ink[y : y + CELL, x + offset * CELL : x + (offset + 1) * CELL]
            np.maximum(spot, glyph, out=spot)
    end_row, end_col = places[-1][0], places[-1][1] + len(texts[-1])
    y, x = end_row * CELL + 1, end_col * CELL + 1
    ink[y + 4 : y + 12, x + 4 : x + 12] = 255
    ink = ink[1:-1, 1:-1]

    paper = _paper(draw, height, width, stream)
    shade = draw.integer(0, 80)
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        tinted = paper + draw.integer(-8, 8)
        dark = shade + draw.integer(0, 20)
        pixels[..., channel] = np.clip((tinted * (255 - ink) + dark * ink + 127) // 255, 0, 255)
    return Image.fromarray(pixels)


def _paper(draw: Draw, height: int, width: int, stream: str) -> np.ndarray:
    """Grey levels `[height, width]` of the background: a gradient, some soft shadows and slight noise."""
    down, across = draw.integer(-16, 16), draw.integer(-16, 16)
    slope = (np.arange(height, dtype=np.int32) * down // height)[:, None] + (
        np.arange(width, dtype=np.int32) * across // width
    )
    paper = draw.integer(195, 240) + slope
    for _ in range(draw.integer(1, 4)):
        y, x, radius = draw.integer(0, height), draw.integer(0, width), draw.integer(40, 120)
        depth = draw.integer(-24, 12)
        rows = np.maximum(radius - np.abs(np.arange(height, dtype=np.int32) - y), 0)
        cols = np.maximum(radius - np.abs(np.arange(width, dtype=np.int32) - x), 0)
        paper = paper + depth * rows[:, None] * cols // (radius * radius)
    strength = draw.integer(2, 6)
    noise = np.frombuffer(hashlib.shake_256(stream.encode()).digest(height * width), dtype=np.uint8)
    return paper + noise.reshape(height, width).astype(np.int32) % (2 * strength + 1) - strength
