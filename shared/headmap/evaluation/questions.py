"""Questions with known answers: those of pages, or of the public sets in `headmap.evaluation.public_sets`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice
from typing import Protocol

from PIL import Image

from headmap.datasets.sources import PageSource
from headmap.scoring.pages import TRANSCRIBE_PROMPT, Page

SHORT_ANSWER_TOKENS = 32
TRANSCRIPTION_TOKENS = 1024
PAGE_METRIC, TRANSCRIPTION_METRIC = "exact", "cer"


@dataclass(frozen=True)
class Question:
    """A question about pictures (RGB, in order), with all its right answers. `id` is unique in its set.

    `text_first`: the text is sent before the pictures, not after them. Some chat templates write pictures first anyway.
    """

    id: str
    text: str
    pictures: tuple[Image.Image, ...]
    answers: tuple[str, ...]
    text_first: bool = False


class QuestionSet(Protocol):
    """A dataset's questions, opened one after the other."""

    metric: str
    """The name of the metric that these questions are known to be marked with."""
    max_new_tokens: int
    """Most tokens of an answer, where the caller sets no bound."""

    @property
    def size(self) -> int | None:
        """The number of questions; None if it is unknown before they are opened."""
        ...

    def questions(self, seed: int, first: int, count: int) -> Iterator[Question]:
        """Questions `first` to `first + count - 1` of the series `seed`, fewer where the set ends before.

        The same range has the same questions on every machine. Raises InvalidDataset, naming the place and the field.
        """
        ...


class PageQuestions:
    """The questions of a dataset's pages, in the order of the pages; with `transcribe`, one to read each whole page.

    Only the pages tell how many questions they have, so those before the first question are opened too, once each.
    """

    def __init__(self, pages: PageSource, *, transcribe: bool = False) -> None:
        self._pages = pages
        self._transcribe = transcribe
        self._starts: dict[int, list[int]] = {}
        """By seed: the number of each page's first question, as far as pages were opened."""
        self.metric = TRANSCRIPTION_METRIC if transcribe else PAGE_METRIC
        self.max_new_tokens = TRANSCRIPTION_TOKENS if transcribe else SHORT_ANSWER_TOKENS

    @property
    def size(self) -> int | None:
        return self._pages.size if self._transcribe else None

    def questions(self, seed: int, first: int, count: int) -> Iterator[Question]:
        starts = self._starts.setdefault(seed, [0])
        page = bisect_right(starts, first) - 1
        before = first - starts[page]
        return islice(self._from(seed, page, starts), before, before + count)

    def _from(self, seed: int, first: int, starts: list[int]) -> Iterator[Question]:
        """Yield the questions of all pages from `first` on, without end for pages that are made on request."""
        for number in numbers(first) if self._pages.size is None else range(first, self._pages.size):
            for page in self._pages.pages(seed, number, 1):
                found = self._of(number, page)
                if len(starts) == number + 1:
                    starts.append(starts[number] + len(found))
                yield from found

    def _of(self, number: int, page: Page) -> list[Question]:
        if self._transcribe:
            return [Question(f"{number}", TRANSCRIBE_PROMPT, (page.image,), (page.text,))]
        return [
            Question(f"{number}-{place}", one.question, (page.image,), (one.answer,))
            for place, one in enumerate(page.questions)
        ]
