"""The contract of a metric: one answer against the right ones, as a number from 0 to 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from headmap.errors import InvalidParameter


class Metric(ABC):
    """A way to mark answers. It has no state: one instance serves every question.

    `name`: what a request calls it. `binary`: marks are 0 or 1, nothing between. `transcribes`: it marks a whole page's
    text, so a dataset of pages is asked for that instead of its questions. `fewest`, `most`: how many right answers a
    question must have; `most` is None where any number will do.
    """

    name: ClassVar[str]
    binary: ClassVar[bool] = False
    transcribes: ClassVar[bool] = False
    fewest: ClassVar[int] = 1
    most: ClassVar[int | None] = None

    @abstractmethod
    def score(self, answer: str, expected: Sequence[str]) -> float:
        """The mark of `answer`, 0 to 1. `expected`: the right answers, as many as `check` lets pass."""

    def check(self, expected: Sequence[str], question: str) -> None:
        """Raises InvalidParameter if the metric does not fit the right answers of the question with id `question`."""
        most = len(expected) if self.most is None else self.most
        if not self.fewest <= len(expected) <= most:
            wanted = f"{self.fewest}" if self.fewest == self.most else f"at least {self.fewest}"
            raise InvalidParameter(
                f"metric: {self.name!r} takes {wanted} right answer{'' if self.fewest == 1 else 's'} a question, "
                f"question {question!r} has {len(expected)}",
                param="metric",
            )


def plain_spaces(text: str) -> str:
    """Replace each run of white space in `text` by one blank, and strip both ends."""
    return " ".join(text.split())
