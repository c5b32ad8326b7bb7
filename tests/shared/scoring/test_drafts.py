"""Guesses go on where the answer is in the expected text, or round in the circle it has fallen into."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headmap.scoring.drafts import CAUTION, Draft

TEXT = list(range(10, 60))
tokens = st.lists(st.integers(0, 3), max_size=40)


def test_the_first_guess_is_the_whole_text() -> None:
    assert Draft(TEXT).guess([], 1000) == TEXT
    assert Draft(TEXT).guess([], 5) == TEXT[:5]
    assert Draft([]).guess([], 5) == []


def test_after_a_misread_token_the_text_goes_on() -> None:
    assert Draft(TEXT).guess([*TEXT[:7], 99], 3) == TEXT[8:11]


def test_a_skipped_line_is_found_again_after_three_tokens() -> None:
    draft = Draft(TEXT)
    assert draft.guess([*TEXT[:7], *TEXT[20:23]], 1000) == TEXT[23:]
    assert draft.guess([98, 99, 97], 1000) == []


def test_a_circle_is_followed_beyond_what_was_said() -> None:
    assert Draft([]).guess([5, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_misses_make_guesses_short_and_hits_make_them_long_again() -> None:
    draft = Draft(TEXT)
    answer = [*TEXT[:7], *TEXT[20:23]]
    draft.learn(guessed=50, right=0)
    assert len(draft.guess(answer, 1000)) == CAUTION
    draft.learn(guessed=CAUTION, right=CAUTION)
    assert draft.guess(answer, 1000) == TEXT[23:]


@given(expected=tokens, answer=tokens, limit=st.integers(0, 50))
def test_a_guess_is_what_followed_the_longest_end_seen_before(
    expected: list[int], answer: list[int], limit: int
) -> None:
    guessed = Draft(expected).guess(answer, limit)
    assert len(guessed) <= limit
    if answer and guessed:
        whole = [*expected, *answer, *guessed]
        last, ends = answer[-3:], range(3, len(expected) + len(answer))
        # the three tokens before, or, where one was misread, the three before that one
        assert any(whole[end - 3 : end] == last and whole[end] == guessed[0] for end in ends) or any(
            whole[end - 4 : end - 1] == answer[-4:-1] and whole[end] == guessed[0] for end in ends
        )
