from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.errors import EmptyPrompt
from headmap.settings import Settings
from services.inference.intake.conversation import conversation_of_inputs, split_markdown


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
    assert split_markdown(text, 1000) == pieces


@given(st.text(alphabet="![]()ab ", max_size=60))
def test_no_text_outside_pictures_is_lost(text: str) -> None:
    pieces = split_markdown(text, 1000)
    kept = "".join(piece for piece, _ in pieces)
    assert len(kept) <= len(text)
    if all(target is None for _, target in pieces):
        assert kept == text


class Watched(str):
    """Counts the characters that are looked through."""

    __slots__ = ("looked_at",)

    def find(self, sub: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        stop = len(self) if end is None else min(end, len(self))
        found = str.find(self, sub, start, stop)
        self.looked_at = getattr(self, "looked_at", 0) + (stop if found < 0 else found + len(sub)) - start
        return found


@pytest.mark.parametrize("unit", ["![", "![](", "](", "![x]", "!", "![](x)", "![" + "x" * 2000])
def test_twice_the_text_is_at_most_twice_the_work(unit: str) -> None:
    work = []
    for times in (20_000 // len(unit), 40_000 // len(unit)):
        text = Watched(unit * times)
        split_markdown(text, 1000)
        work.append(text.looked_at)
    assert work[1] <= 2.2 * work[0]


def test_a_conversation_needs_text_or_a_picture() -> None:
    settings = Settings()
    with pytest.raises(EmptyPrompt):
        conversation_of_inputs(" \n", [], settings)
    assert len(conversation_of_inputs(" \n", ["aaaa"], settings).images) == 1
    assert not conversation_of_inputs("What?", [], settings).images
