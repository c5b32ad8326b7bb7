"""Questions with known answers: those of pages, or of the public sets in `headmap.evaluation.public_sets`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice
from typing import Protocol

from PIL import Image

from headmap.datasets.sources import PageSource
from headmap.errors import InvalidParameter
from headmap.evaluation.metrics.base import Metric
from headmap.scoring.pages import TRANSCRIBE_PROMPT, Page

SHORT_ANSWER_TOKENS = 32
TRANSCRIPTION_TOKENS = 1024


@dataclass(frozen=True)
class Question:
    """A question about pictures (RGB, in order), with all its right answers. `id` is unique in its set."""

    id: str
    text: str
    pictures: tuple[Image.Image, ...]
    answers: tuple[str, ...]


class QuestionSet(Protocol):
    """A dataset's questions, opened one after the other."""

    metric: str
    """The name of the metric that these questions are known to be marked with."""
    max_new_tokens: int
    """Most tokens of an answer, where the caller sets no bound."""

    @property
    def size(self) -> int | None:
        """How many questions there are; None where that is not known before they are opened."""
        ...

    def questions(self, seed: int, first: int, count: int) -> Iterator[Question]:
        """Questions `first` to `first + count - 1` of the series `seed`, fewer where the set ends before.

        The same range has the same questions on every machine. Raises InvalidDataset, naming the place and the field.
        """
        ...


class PageQuestions:
    """The questions of a dataset's pages, in the order of the pages; with `transcribe`, one to read each whole page.

    Opens the pages before the first question too, since only they tell how many questions they have.
    """

    def __init__(self, pages: PageSource, *, transcribe: bool = False) -> None:
        self._pages = pages
        self._transcribe = transcribe
        self.metric = "cer" if transcribe else "exact"
        self.max_new_tokens = TRANSCRIPTION_TOKENS if transcribe else SHORT_ANSWER_TOKENS

    @property
    def size(self) -> int | None:
        return self._pages.size if self._transcribe else None

    def questions(self, seed: int, first: int, count: int) -> Iterator[Question]:
        return islice(self._all(seed), first, first + count)

    def _all(self, seed: int) -> Iterator[Question]:
        """Without end for pages that are made on request."""
        for number in numbers() if self._pages.size is None else range(self._pages.size):
            for page in self._pages.pages(seed, number, 1):
                yield from self._of(number, page)

    def _of(self, number: int, page: Page) -> Iterator[Question]:
        if self._transcribe:
            yield Question(f"{number}", TRANSCRIBE_PROMPT, (page.image,), (page.text,))
            return
        for place, one in enumerate(page.questions):
            yield Question(f"{number}-{place}", one.question, (page.image,), (one.answer,))


def take_questions(
    questions: QuestionSet, dataset: str, metric: Metric, *, count: int | None, default: int = 200, seed: int = 0
) -> int:
    """How many questions an evaluation asks: `count`, else `default` or all of a smaller set.

    Opens the first question only. Raises InvalidParameter for a set without questions, for more of them than there are
    where that is known, and where the metric does not fit the first one's answers.
    """
    first = next(questions.questions(seed, 0, 1), None)
    if first is None:
        raise InvalidParameter(f"dataset: {dataset!r} has no questions with answers", param="dataset")
    metric.check(first.answers, first.id)
    size = questions.size
    if count is not None and size is not None and count > size:
        raise InvalidParameter(f"questions: {dataset!r} has {size}, got {count}", param="questions")
    return count if count is not None else min(default, size or default)


def open_questions(
    dataset: str, metric: Metric | None, open_pages: Callable[[str], PageSource], *, max_pixels: int
) -> QuestionSet:
    """The questions of a dataset by its name: a public set's folder or Hub id, or else what `open_pages` opens.

    Raises as `open_public_set` and `open_pages` do.
    """
    from headmap.evaluation.public_sets import find_public_files, open_public_set

    if (files := find_public_files(dataset)) is not None:
        return open_public_set(dataset, files, max_pixels=max_pixels)
    return PageQuestions(open_pages(dataset), transcribe=metric is not None and metric.transcribes)
