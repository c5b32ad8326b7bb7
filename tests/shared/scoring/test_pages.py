"""Made-up pages: the same on any machine, and true to what they say about themselves."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headmap.scoring.pages import (
    CELL,
    MAX_CELLS,
    MIN_CELLS,
    PAGE_CHARACTERS,
    Page,
    Word,
    draw_page,
    make_page,
)

seeds = st.integers(min_value=0, max_value=2**63)
indices = st.integers(min_value=0, max_value=10_000)


def pixels(page: Page) -> bytes:
    return np.asarray(page.image).tobytes()


def test_pixels_are_those_of_every_other_machine() -> None:
    page = make_page(0, 0)
    assert page.image.mode == "RGB"
    assert (
        hashlib.sha256(pixels(page)).hexdigest() == "0292165d988b89e6161aaa02e322e3a3f3880893e1dcda5bb66e2ba7e422f2ae"
    )
    assert page.text.splitlines()[0] == "KLZ:FUQX"


@settings(max_examples=25, deadline=None)
@given(seeds, indices)
def test_a_page_is_drawn_from_seed_and_index_alone(seed: int, index: int) -> None:
    first, second = make_page(seed, index), make_page(seed, index)
    assert pixels(first) == pixels(second)
    assert (first.words, first.questions) == (second.words, second.questions)
    assert pixels(first) != pixels(make_page(seed, index + 1))
    assert first.words != make_page(seed + 1, index).words


@settings(max_examples=40, deadline=None)
@given(seeds, indices)
def test_size_and_density(seed: int, index: int) -> None:
    page = make_page(seed, index)
    width, height = page.image.size
    assert width % CELL == 0
    assert height % CELL == 0
    cells = width * height // CELL**2
    assert MIN_CELLS <= cells <= MAX_CELLS
    assert 0.25 <= sum(len(word.text) for word in page.words) / cells <= 0.45


@settings(max_examples=40, deadline=None)
@given(seeds, indices)
def test_words_lie_in_the_picture_apart_and_hold_their_ink(seed: int, index: int) -> None:
    page = make_page(seed, index)
    grey = np.asarray(page.image.convert("L"), dtype=int)
    covered = np.zeros(grey.shape, dtype=bool)
    for word in page.words:
        x0, y0, x1, y1 = word.box
        assert 0 <= x0 < x1 <= page.image.width
        assert 0 <= y0 < y1 <= page.image.height
        assert (x1 - 1) // CELL - x0 // CELL + 1 == len(word.text), "a word has one cell for each character"
        assert not covered[y0:y1, x0:x1].any()
        covered[y0:y1, x0:x1] = True
        box = grey[y0:y1, x0:x1]
        assert np.median(box) - box.min() > 50, "there is no ink in the box"
        assert set(word.text) <= set(PAGE_CHARACTERS)


@settings(max_examples=40, deadline=None)
@given(seeds, indices)
def test_no_two_characters_stand_side_by_side_twice(seed: int, index: int) -> None:
    """The last two characters read tell where to go on, at the start of a line too."""
    text = "".join(f"\n{line}\n" for line in make_page(seed, index).text.split("\n")).replace("\n\n", "\n \n")
    pairs = [text[place : place + 2] for place in range(len(text) - 1)]
    pairs = [pair for pair in pairs if " " not in pair]
    assert len(set(pairs)) == len(pairs)


@settings(max_examples=40, deadline=None)
@given(seeds, indices)
def test_text_and_answers_agree_with_the_words(seed: int, index: int) -> None:
    page = make_page(seed, index)
    assert page.text.split() == [word.text for word in page.words]
    values = dict(line.split(":") for line in page.text.split("\n"))
    assert len(values) == len(page.words), "a key stands on one line only"
    assert len(page.questions) == 4
    for question in page.questions:
        key = question.question.removeprefix("What is the value of ").removesuffix("?")
        assert values[key] == question.answer
        assert [other for other in values if other.endswith(key[-3:])] == [key]


def test_words_beside_each_other_are_one_line() -> None:
    words = (Word("A", (0, 0, 10, 10)), Word("B", (20, 1, 30, 11)), Word("C", (0, 16, 10, 26)))
    assert Page(Image.new("RGB", (32, 32)), words, ()).text == "A B\nC"


def test_other_streams_are_other_pages() -> None:
    assert draw_page("train/0/0", 8, 14).words != make_page(0, 0).words
    assert draw_page("page/0/0", 8, 14).words == make_page(0, 0).words


def test_words_from_right_to_left_follow_each_other_on_a_line() -> None:
    texts = ["שלום", "2026", "עולם", "טוב"]
    boxes = [(70, 0, 98, 10), (40, 1, 60, 9), (5, 2, 35, 11), (60, 20, 98, 30)]
    words = tuple(Word(text, box) for text, box in zip(texts, boxes, strict=True))
    assert Page(Image.new("RGB", (100, 40)), words, ()).text == "שלום 2026 עולם\nטוב"
