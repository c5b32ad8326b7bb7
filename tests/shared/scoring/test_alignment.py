"""Which token read which word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmap.scoring.alignment import match_aligned, match_paper

WORDS = ["CAT:4711", "DOG:90X", "CATS:12"]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["CAT", ":", "4711"], [-1, -1, 0]),  # CAT is in two words, a colon in three
        ([" DOG", "X\n", "\n", ""], [1, 1, -1, -1]),  # blanks around do not count, blanks alone match nothing
        (["S"], [2]),
        (["cat"], [-1]),
    ],
)
def test_paper_rule_wants_exactly_one_word(tokens: list[str], expected: list[int]) -> None:
    assert match_paper(tokens, WORDS) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["CAT", ":", "4711", "\n", "DOG:", "90X", "\n", "CATS", ":1", "2"], [0, 0, 0, -1, 1, 1, -1, 2, 2, 2]),
        (["CATS:12", "\n", "CAT:4711"], [2, -1, 0]),  # another order than the page's
        (["The page", " says ", "DOG", ":90", "X"], [-1, -1, 1, 1, 1]),
        (["C", "A", "T", ":", "4", "8", "1", "1"], [0, 0, 0, 0, 0, -1, -1, -1]),  # a misread tail is no match
        (["zzzz", "qq"], [-1, -1]),
    ],
)
def test_aligned_rule_follows_the_characters(tokens: list[str], expected: list[int]) -> None:
    assert match_aligned(tokens, WORDS) == expected


@pytest.mark.parametrize(
    ("words", "tokens", "expected"),
    [
        # Chinese: a box for each character or for each line, no blanks in the answer
        (["甲", "乙", "丙", "甲"], ["乙", "丙", "甲"], [1, 2, 3]),
        (["今日は雨です", "明日は晴れ"], ["今日", "は", "雨です", "明日", "は", "晴れ"], [0, 0, 0, 1, 1, 1]),
        (["今日は雨です", "明日は晴れ"], ["今日は雨です明日", "は晴れ"], [0, 1]),
        # Hebrew and Arabic: words in reading order, whatever side they stand on
        (["שלום", "עולם", "טוב"], ["שלום", " עו", "לם", " טוב"], [0, 1, 1, 2]),
        (["مرحبا", "بالعالم"], ["مرحبا", "\n", "بال", "عالم"], [0, -1, 1, 1]),
        # Devanagari: a letter and its vowel sign are two characters
        (["नमस्ते", "दुनिया"], ["नम", "स्ते", " दु", "निया"], [0, 0, 1, 1]),
    ],
)
def test_other_scripts_are_aligned_by_their_characters(
    words: list[str], tokens: list[str], expected: list[int]
) -> None:
    assert match_aligned(tokens, words) == expected


def test_a_token_over_two_words_goes_to_the_larger_part() -> None:
    assert match_aligned(["CAT:47", "11\nDOG:90", "X"], WORDS) == [0, 1, 1]


@given(st.lists(st.text("AB:1 \n", max_size=5), max_size=12), st.lists(st.text("AB:1", min_size=1), max_size=5))
def test_every_token_gets_one_word_of_the_page_or_none(tokens: list[str], words: list[str]) -> None:
    for rule in (match_aligned, match_paper):
        result = rule(tokens, words)
        assert len(result) == len(tokens)
        assert all(-1 <= word < len(words) for word in result)


@given(st.lists(st.text("ABCDEFGH123", min_size=3, max_size=9), min_size=1, max_size=6, unique=True), st.integers(1, 4))
def test_a_perfect_transcription_matches_every_visible_token(words: list[str], size: int) -> None:
    text = "\n".join(words)
    tokens = [text[start : start + size] for start in range(0, len(text), size)]
    assert all(word >= 0 for token, word in zip(tokens, match_aligned(tokens, words), strict=True) if token.strip())
