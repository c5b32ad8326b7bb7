"""Exact match: the answer is one of the right ones, to the character (SQuAD, arXiv 1606.05250, section 6.1).

White space is normalised; upper and lower case differ, unlike in SQuAD, because the documents' codes differ by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric, plain_spaces


class Exact(Metric):
    name = "exact"
    binary = True

    def score(self, answer: str, expected: Sequence[str]) -> float:
        return float(plain_spaces(answer) in map(plain_spaces, expected))
