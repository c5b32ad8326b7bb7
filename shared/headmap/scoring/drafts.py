"""Guess the next tokens of an answer, from the expected answer or from earlier text.

This is speculative decoding (Leviathan et al. 2023, section 2), with text instead of a small model. Earlier text is
searched as in prompt lookup decoding. Every guess is checked, so a wrong guess costs time but never changes the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_MATCH = 3
"""The minimum number of last tokens that must match earlier text. Fewer tokens match by chance."""

MAX_MATCH = 8
"""The maximum number of tokens to compare. A tie goes to the latest match."""

CAUTION = 16
"""The number of tokens guessed after a miss. On a processor they cost about as much as one token."""

GROWTH = 4
"""The maximum growth factor of the next guess after a correct guess."""


class Draft:
    """The expected answer, and how much of it was right."""

    def __init__(self, expected: Sequence[int]) -> None:
        self._expected = list(expected)
        self._width = max(CAUTION, len(self._expected))

    def guess(self, answer: Sequence[int], limit: int) -> list[int]:
        """Guess at most `limit` tokens that may follow `answer`. The guess may be empty."""
        if not answer:
            return self._expected[:limit]
        history = [*self._expected, *answer]
        place = _continuation(history, answer)
        if place is None:
            # The last token may replace another one, such as a misread character.
            before = _continuation(history[:-1], answer[:-1])
            place = None if before is None else before + 1
        if place is None:
            return []
        end = len(self._expected)
        guessed: list[int] = []
        for index in range(place, place + min(limit, self._width)):
            if place < end and index == end:
                break
            # After the last token the guess continues from itself, for an answer that repeats.
            guessed.append(history[index] if index < len(history) else guessed[index - len(history)])
        return guessed

    def learn(self, guessed: int, right: int) -> None:
        """Record that `right` of `guessed` tokens were right."""
        if right < guessed:
            self._width = max(CAUTION, right)
        elif guessed:
            self._width *= GROWTH


def _continuation(history: Sequence[int], answer: Sequence[int]) -> int | None:
    """Find the longest earlier match for the end of `answer` in `history`; return the index after it.

    `history` ends with `answer`. A tie goes to the last match. Returns None if the match is shorter than MIN_MATCH
    tokens.
    """
    best, place = MIN_MATCH, None
    if len(answer) < MIN_MATCH:
        return None
    for end in range(1, len(history)):
        if history[end - 1] != answer[-1]:
            continue
        most = min(MAX_MATCH, len(answer), end)
        same = next((n for n in range(1, most) if history[end - 1 - n] != answer[-1 - n]), most)
        if same >= best:
            best, place = same, end
    return place
