"""Contains: one of the right answers stands somewhere in the answer (OCRBench, arXiv 2305.07895, section 3).

Upper and lower case are the same, and so is all white space. OCRBench compares formulas (HME100k) without any blanks;
here they keep them.
"""

from __future__ import annotations

from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric, plain_spaces


class Contains(Metric):
    name = "contains"
    binary = True

    def score(self, answer: str, expected: Sequence[str]) -> float:
        said = plain_spaces(answer).lower()
        return float(any(plain_spaces(right).lower() in said for right in expected))
