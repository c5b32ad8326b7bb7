"""Word accuracy: 1 - the word error rate, which is edits of whole words over the right text's words; never below 0.

The rate of speech recognition (Morris, Maier, Green 2004): insertions count, so it may pass 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from headmap.evaluation.metrics.base import Metric
from headmap.evaluation.metrics.cer import error_rate


class WordAccuracy(Metric):
    """Takes one right text. White space separates words."""

    name = "wer"
    transcribes = True
    most = 1

    def score(self, answer: str, expected: Sequence[str]) -> float:
        return 1 - min(1.0, error_rate(answer.split(), expected[0].split()))
