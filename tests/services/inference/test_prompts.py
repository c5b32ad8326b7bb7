from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import EmptyPrompt, NoImage
from headmap.settings import Settings
from services.inference.prompts import conversation_of_inputs, split_markdown


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("plain", [("plain", None)]),
        ("![](a)", [("", "a"), ("", None)]),
        ("x ![alt text](a) y ![](b)", [("x ", "a"), (" y ", "b"), ("", None)]),
        ("![ not closed](", [("![ not closed](", None)]),
        ("![] (a)", [("![] (a)", None)]),
        ("a ! [](b)", [("a ! [](b)", None)]),
        ("![![](a)", [("", "a"), ("", None)]),
    ],
)
def test_markdown_pictures_are_found(text: str, pieces: list[tuple[str, str | None]]) -> None:
    assert split_markdown(text) == pieces


@given(st.text(alphabet="![]()ab ", max_size=60))
def test_no_text_outside_pictures_is_lost(text: str) -> None:
    pieces = split_markdown(text)
    kept = "".join(piece for piece, _ in pieces)
    assert len(kept) <= len(text)
    if all(target is None for _, target in pieces):
        assert kept == text


@pytest.mark.parametrize("unit", ["![", "![](", "](", "![x]", "!"])
def test_splitting_takes_linear_time(unit: str) -> None:
    started = time.perf_counter()
    split_markdown(unit * (500_000 // len(unit)))
    assert time.perf_counter() - started < 3


def test_a_conversation_needs_text_and_a_picture() -> None:
    settings = Settings()
    with pytest.raises(EmptyPrompt):
        conversation_of_inputs(" \n", ["aaaa"], settings)
    with pytest.raises(NoImage):
        conversation_of_inputs("What?", [], settings)
