"""Character accuracy: 1 - the character error rate, which is edits over the right text's length; never below 0.

The rate as ISRI's accuracy tools define it (Rice, Jenkins, Nartker 1996): insertions count, so it may pass 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric, plain_spaces
from headmap.evaluation.metrics.edit_distance import edit_distance


class CharacterAccuracy(Metric):
    """Takes one right text. White space is normalised: a line break counts as a blank."""

    name = "cer"
    transcribes = True
    most = 1

    def score(self, answer: str, expected: Sequence[str]) -> float:
        return 1 - min(1.0, error_rate(plain_spaces(answer), plain_spaces(expected[0])))


def error_rate(said: Sequence[str], right: Sequence[str]) -> float:
    """Edits from `said` to `right`, over the length of `right`; for an empty `right`, over 1."""
    return edit_distance(said, right) / max(1, len(right))
