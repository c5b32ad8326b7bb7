"""ANLS: likeness by normalised edit distance, nothing below one half (arXiv 1905.13648, equation 1; DocVQA).

At exactly one half the paper gives 0; DocVQA's evaluation server and lmms-eval give 0.5, and so does this.
"""

from __future__ import annotations

from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric, plain_spaces
from headmap.evaluation.metrics.edit_distance import edit_distance

THRESHOLD = 0.5


class Anls(Metric):
    """The best over the right answers; upper and lower case are the same."""

    name = "anls"

    def score(self, answer: str, expected: Sequence[str]) -> float:
        best = max(_alike(plain_spaces(answer).lower(), plain_spaces(right).lower()) for right in expected)
        return best if best >= THRESHOLD else 0.0


def _alike(said: str, right: str) -> float:
    longest = max(len(said), len(right))
    return 1 - edit_distance(said, right) / longest if longest else 1.0
