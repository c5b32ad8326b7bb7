"""Guesses of how an answer goes on: what it is expected to say, or what it said before.

A guess is checked before it counts (Leviathan et al. 2023, section 2, with text in the place of a small model; earlier
text is looked up as in prompt lookup decoding): a wrong one costs time and never changes the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_MATCH = 3
"""The answer's last tokens must have been seen before, at least this many of them: fewer match by chance."""

MAX_MATCH = 8
"""More of them are not compared: of places that match as well, the latest is taken."""

CAUTION = 16
"""Tokens guessed at a time after a miss, for a processor about as dear as one."""

GROWTH = 4
"""After a guess that held, the next may be this many times as long."""


class Draft:
    """The expected answer, and how far it was right."""

    def __init__(self, expected: Sequence[int]) -> None:
        self._expected = list(expected)
        self._width = max(CAUTION, len(self._expected))

    def guess(self, answer: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow `answer`; none where nothing suggests any."""
        if not answer:
            return self._expected[:limit]
        history = [*self._expected, *answer]
        place = _continuation(history, answer)
        if place is None:
            # The last token may stand for another one: a character misread.
            before = _continuation(history[:-1], answer[:-1])
            place = None if before is None else before + 1
        if place is None:
            return []
        end = len(self._expected)
        guessed: list[int] = []
        for index in range(place, place + min(limit, self._width)):
            if place < end and index == end:
                break
            # Past the last token the guess goes on from itself: an answer that goes round in circles.
            guessed.append(history[index] if index < len(history) else guessed[index - len(history)])
        return guessed

    def learn(self, guessed: int, right: int) -> None:
        """Record that `right` of `guessed` tokens were right."""
        if right < guessed:
            self._width = max(CAUTION, right)
        elif guessed:
            self._width *= GROWTH


def _continuation(history: Sequence[int], answer: Sequence[int]) -> int | None:
    """The index in `history` after the longest earlier match of the end of `answer`; `history` ends with `answer`.

    The last of equally long matches; None below MIN_MATCH tokens.
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
