"""Relaxed accuracy: a number may be off by 5 %, any other answer must match (ChartQA, arXiv 2203.10244, section 5.1).

As in the published code "12%" is the number 0.12; a right answer of 0 has no 5 % and must match as text; upper and
lower case are the same. Numbers with thousands separators are texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric, plain_spaces

TOLERANCE = 0.05


class Relaxed(Metric):
    name = "relaxed"
    binary = True

    def score(self, answer: str, expected: Sequence[str]) -> float:
        return float(any(_matches(plain_spaces(answer), plain_spaces(right)) for right in expected))


def _matches(said: str, right: str) -> bool:
    number, target = _number(said), _number(right)
    if number is None or not target:
        return said.lower() == right.lower()
    return abs(number - target) <= TOLERANCE * abs(target)


def _number(text: str) -> float | None:
    """The finite number that `text` writes, None where it writes none."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
