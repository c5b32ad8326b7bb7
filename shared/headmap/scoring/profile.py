"""Profile a model on a range of pages: read, record the heads' attention, score (SparseMM section 3.1).

Scores of text retrieval are made in `text_retrieval.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from headmap.errors import InvalidParameter
from headmap.families.base import PreparedPrompt, VisualTokens
from headmap.families.loading import LoadedModel
from headmap.looks import PAGES_WITH_LOOKS, PageLooks, small_jpeg
from headmap.map_kinds import MAP_KINDS, TEXT_RETRIEVAL, VISUAL, MapKind
from headmap.page_sums import PageSums
from headmap.scoring.alignment import RULES
from headmap.scoring.answers import text_tokens, token_texts
from headmap.scoring.lanes import in_lanes
from headmap.scoring.pages import TRANSCRIBE_PROMPT, Page
from headmap.scoring.reading import Reading, read_pages
from headmap.scoring.text_retrieval import score_texts
from headmap.scoring.visual_heads import PageScores, page_hits, page_scores

T = TypeVar("T")

HEARTBEAT_SECONDS = 1.0

LANE_PARAMETERS = 1 << 28
"""A model of at most this size reads pages in lanes on a CPU. From half a billion on, torch's threads are as fast."""

MAX_LANES = 16
"""The limit on lanes, because each lane holds a page's keys and values."""


class Profiler:
    """Scores pages with a loaded model. `score_pages` reads up to `batch` pages together."""

    def __init__(self, loaded: LoadedModel, *, batch: int = 4) -> None:
        self.loaded = loaded
        self._batch = batch

    def score(
        self,
        pages: Iterable[Page],
        *,
        first: int = 0,
        kind: MapKind = VISUAL,
        rule: str,
        max_new_tokens: int,
        on_page: Callable[[int], None],
    ) -> tuple[PageSums, dict[int, PageLooks]]:
        """Score pages. Each page is opened just before it is read; the first one is the job's page `first`.

        Returns the sums of their scores, and the looks of the job's first pages by page number. Only a visual map has
        looks.

        `on_page(done)` is called after each page and about once a second, with the number of finished pages. It may
        raise to end the work.
        """
        progress = _Progress(on_page)
        total = PageSums.none(self.loaded.info.num_layers, self.loaded.info.num_heads)
        looks: dict[int, PageLooks] = {}
        scored = score_pages(
            self.loaded,
            pages,
            kind=kind,
            rule=rule,
            max_new_tokens=max_new_tokens,
            batch=self._batch,
            heartbeat=progress.beat,
            pages_with_looks=max(0, PAGES_WITH_LOOKS - first),
        )
        for number, page in enumerate(scored, start=first):
            total += PageSums.of_page(
                number,
                page.scores,
                tokens_seen=page.tokens_seen,
                tokens_matched=page.tokens_matched,
                hits=page.hits,
            )
            if page.looks is not None:
                looks[number] = page.looks
            progress.page_done()
        return total, looks


def score_pages(
    loaded: LoadedModel,
    pages: Iterable[Page],
    *,
    kind: MapKind = VISUAL,
    rule: str = "aligned",
    max_new_tokens: int = 1024,
    batch: int = 4,
    heartbeat: Callable[[], None] = lambda: None,
    pages_with_looks: int = 0,
) -> Iterator[PageScores]:
    """Score pages in order. The results of the first `pages_with_looks` pages of a visual map include their looks.

    The model reads `batch` pages together. A small model on a CPU reads each page alone, in as many lanes as torch has
    threads, and holds two pages per lane. `heartbeat` is called after each forward pass, or several times a second, and
    may raise to end the work. Raises InvalidParameter for an unknown kind or rule.
    """
    if kind not in MAP_KINDS:
        raise InvalidParameter(f"kind: {kind!r} is not one of {', '.join(MAP_KINDS)}", param="kind")
    if rule not in RULES:
        raise InvalidParameter(f"rule: {rule!r} is not one of {', '.join(RULES)}", param="rule")
    if kind == TEXT_RETRIEVAL:
        read = partial(score_texts, loaded, rule=rule, max_new_tokens=max_new_tokens)
    else:
        read = partial(_read, loaded, rule=rule, max_new_tokens=max_new_tokens, pages_with_looks=pages_with_looks)
    numbered = enumerate(pages)
    if loaded.device.type == "cpu" and loaded.model.num_parameters() <= LANE_PARAMETERS:
        lanes = min(torch.get_num_threads(), MAX_LANES)
        groups = in_lanes(_batched(numbered, 1), read, lanes=lanes, on_step=heartbeat)
    else:
        groups = (read(group, heartbeat) for group in _batched(numbered, batch))
    yield from chain.from_iterable(groups)


def _read(
    loaded: LoadedModel,
    group: Sequence[tuple[int, Page]],
    on_step: Callable[[], None],
    *,
    rule: str,
    max_new_tokens: int,
    pages_with_looks: int,
) -> list[PageScores]:
    """Score numbered pages together."""
    prompts = [transcription_prompt(loaded, page) for _, page in group]
    expected = [expected_tokens(loaded, page) for _, page in group]
    readings = read_pages(loaded, prompts, expected, max_new_tokens=max_new_tokens, on_step=on_step)
    return [
        _score(loaded, page, prompt, reading, rule, with_looks=number < pages_with_looks)
        for (number, page), prompt, reading in zip(group, prompts, readings, strict=True)
    ]


def transcription_prompt(loaded: LoadedModel, page: Page) -> PreparedPrompt:
    """The paper's prompt with the page's picture."""
    content = [{"type": "image"}, {"type": "text", "text": TRANSCRIBE_PROMPT}]
    return loaded.prepare([{"role": "user", "content": content}], [page.image])


def expected_tokens(loaded: LoadedModel, page: Page) -> list[int]:
    """The tokens of the page's text up to the first control token."""
    return text_tokens(loaded, page.text)


def _score(
    loaded: LoadedModel, page: Page, prompt: PreparedPrompt, reading: Reading, rule: str, *, with_looks: bool
) -> PageScores:
    texts = token_texts(loaded, reading.answer)
    words = RULES[rule](texts, [word.text for word in page.words])
    picked = [index for index, word in enumerate(words) if word >= 0]
    image, start = prompt.images[0], prompt.image_starts[0]
    regions = [start + image.region(page.words[words[index]].box) for index in picked]
    winners = reading.winners[:, :, picked]
    hits = page_hits(winners, regions)
    looks = None
    if with_looks:
        read = [(texts[index], words[index]) for index in picked]
        looks = _looks(page, image, read, image.cells_of(winners - start), hits)
    return PageScores(page_scores(hits, regions), len(reading.answer), len(picked), int(hits.sum()), looks)


def _looks(
    page: Page,
    image: VisualTokens,
    read: Sequence[tuple[str, int]],
    cells: npt.NDArray[np.int32],
    hits: npt.NDArray[np.bool_],
) -> PageLooks:
    """Make a page's looks. `read`: the tokens that read a word, each with the word's index."""
    width, height = page.image.size
    return PageLooks(
        width=width,
        height=height,
        picture=small_jpeg(page.image),
        words=tuple((word.text, word.box) for word in page.words),
        tokens=tuple(text for text, _ in read),
        token_words=tuple(word for _, word in read),
        x_edges=image.x.edges(width),
        y_edges=image.y.edges(height),
        cells=cells,
        hits=hits,
    )


def _batched(pages: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(pages)
    while group := tuple(islice(rest, size)):
        yield group


class _Progress:
    """Counts pages and reports the count after each page and about once a second."""

    def __init__(self, on_page: Callable[[int], None]) -> None:
        self.done = 0
        self._on_page = on_page
        self._told = time.monotonic()

    def page_done(self) -> None:
        self.done += 1
        self._tell()

    def beat(self) -> None:
        if time.monotonic() - self._told >= HEARTBEAT_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._on_page(self.done)
