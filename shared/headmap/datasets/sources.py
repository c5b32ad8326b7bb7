"""Datasets by name: what a job's `dataset`, `seed` and page numbers stand for, the same on every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headmap.datasets.made_up.documents import make_document
from headmap.datasets.made_up.forms import make_form
from headmap.datasets.made_up.receipts import make_receipt
from headmap.datasets.made_up.scenes import make_scene
from headmap.datasets.made_up.tables import make_table
from headmap.errors import DatasetNotFound, InvalidParameter
from headmap.scoring.pages import Draw, Page, make_page

DEFAULT = "synthetic"

_KINDS: Mapping[str, Callable[[int, int], Page]] = {
    "documents": make_document,
    "forms": make_form,
    "tables": make_table,
    "receipts": make_receipt,
    "scenes": make_scene,
}


def make_mixed(seed: int, index: int) -> Page:
    """A page of each kind in turn."""
    return list(_KINDS.values())[index % len(_KINDS)](seed, index)


MADE_UP: Mapping[str, Callable[[int, int], Page]] = {DEFAULT: make_page, **_KINDS, "mixed": make_mixed}
"""Kinds of made-up pages; each draws a page from (seed, index) alone."""


class PageSource(Protocol):
    """A dataset, opened."""

    @property
    def size(self) -> int | None:
        """How many pages it has; None where it makes as many as are asked for."""
        ...

    def pages(self, seed: int, first: int, count: int) -> Iterator[Page]:
        """Pages `first` to `first + count - 1` of the series `seed`. Raises InvalidParameter past the last one."""
        ...


@dataclass(frozen=True)
class MadeUpPages:
    """Pages drawn when they are asked for."""

    make: Callable[[int, int], Page]
    size: None = None

    def pages(self, seed: int, first: int, count: int) -> Iterator[Page]:
        return (self.make(seed, index) for index in range(first, first + count))


@dataclass(frozen=True)
class StoredPages:
    """A fixed set of pages. Seed 0 takes them in their own order, any other seed in an order of its own."""

    items: Sequence[Page]
    """Opens a page when it is indexed."""

    @property
    def size(self) -> int:
        return len(self.items)

    def pages(self, seed: int, first: int, count: int) -> Iterator[Page]:
        if first + count > self.size:
            raise InvalidParameter(
                f"pages: the dataset has {self.size}, so there are no pages {first} to {first + count - 1}",
                param="pages",
            )
        order = page_order(self.size, seed)
        return (self.items[order[index]] for index in range(first, first + count))


def page_order(size: int, seed: int) -> Sequence[int]:
    """The order of `size` stored pages under a seed: their own for 0, else shuffled by the seed alone."""
    if seed == 0:
        return range(size)
    draw = Draw(f"order/{seed}")
    order = list(range(size))
    for last in range(size - 1, 0, -1):
        other = draw.integer(0, last)
        order[last], order[other] = order[other], order[last]
    return order


def open_dataset(name: str) -> PageSource:
    """The dataset called `name`. Raises DatasetNotFound."""
    if name in MADE_UP:
        return MadeUpPages(MADE_UP[name])
    raise DatasetNotFound(f"dataset: {name!r} is not here; here are {', '.join(MADE_UP)}", param="dataset")
