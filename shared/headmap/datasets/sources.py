"""Datasets by name: a job's `dataset`, `seed` and page numbers mean the same pages on every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from headmap.blobs.location import open_blobs
from headmap.datasets.made_up.documents import make_document
from headmap.datasets.made_up.forms import make_form
from headmap.datasets.made_up.plain import make_long_page, make_plain_form, make_plain_note, make_plain_receipt
from headmap.datasets.made_up.receipts import make_receipt
from headmap.datasets.made_up.scenes import make_scene
from headmap.datasets.made_up.tables import make_table
from headmap.datasets.stored import UploadedPages
from headmap.datasets.synthdog import SYNTHDOG, open_synthdog
from headmap.errors import DatasetNotFound, InvalidParameter
from headmap.registry.datasets import get_dataset
from headmap.registry.job_params import AUTO_MAX_PAGES
from headmap.registry.session import Database
from headmap.scoring.pages import Draw, Page, make_page
from headmap.settings import Settings

DEFAULT = "synthetic"
DEFAULT_PAGES = 1000

_KINDS: Mapping[str, Callable[[int, int], Page]] = {
    "documents": make_document,
    "forms": make_form,
    "tables": make_table,
    "receipts": make_receipt,
    "scenes": make_scene,
}

_ON_THE_GRID: Mapping[str, Callable[[int, int], Page]] = {
    "synthetic-long": make_long_page,
    "plain-forms": make_plain_form,
    "plain-receipts": make_plain_receipt,
    "plain-notes": make_plain_note,
}


def make_mixed(seed: int, index: int) -> Page:
    """A page of each kind in turn."""
    return list(_KINDS.values())[index % len(_KINDS)](seed, index)


MADE_UP: Mapping[str, Callable[[int, int], Page]] = {
    DEFAULT: make_page,
    **_ON_THE_GRID,
    **_KINDS,
    "mixed": make_mixed,
}
"""Kinds of made-up pages; each draws a page from (seed, index) alone."""

BUILT_IN = (*MADE_UP, SYNTHDOG)
"""Names that are no upload's."""


class PageSource(Protocol):
    """A dataset, opened."""

    @property
    def size(self) -> int | None:
        """How many pages it has; None if it makes any number."""
        ...

    def pages(self, seed: int, first: int, count: int) -> Iterator[Page]:
        """Pages `first` to `first + count - 1` of the series `seed`. Raises InvalidParameter past the last one."""
        ...


@dataclass(frozen=True)
class MadeUpPages:
    """Pages drawn on request."""

    make: Callable[[int, int], Page]
    size: None = None

    def pages(self, seed: int, first: int, count: int) -> Iterator[Page]:
        return (self.make(seed, index) for index in range(first, first + count))


@dataclass(frozen=True)
class StoredPages:
    """A fixed set of pages. Seed 0 takes them in their own order, any other seed in an order of its own."""

    size: int
    page: Callable[[int], Page]
    """Opens one by its number, from 0 to `size - 1`."""

    def pages(self, seed: int, first: int, count: int) -> Iterator[Page]:
        if first + count > self.size:
            raise InvalidParameter(
                f"pages: the dataset has {self.size} pages, so there are no pages {first} to {first + count - 1}",
                param="pages",
            )
        order = page_order(self.size, seed)
        return (self.page(order[index]) for index in range(first, first + count))


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


def open_dataset(
    name: str, settings: Settings, *, database: Database | None = None, checksum: str | None = None
) -> PageSource:
    """The dataset called `name`: a built-in one, or one of the registry's uploads, which needs `database`.

    `checksum`: the upload must still have it. Raises DatasetNotFound, for stored pages also DatasetUnavailable,
    InvalidDataset and RegistryUnavailable.
    """
    if name in MADE_UP:
        return MadeUpPages(MADE_UP[name])
    if name == SYNTHDOG:
        public = open_synthdog(settings.synthdog, max_pixels=settings.max_image_pixels)
        return StoredPages(public.size, public.page)
    if database is None:
        raise DatasetNotFound(f"dataset: {name!r} is not one of {', '.join(BUILT_IN)}", param="dataset")
    uploaded = UploadedPages(database, open_blobs(settings), name, checksum)
    return StoredPages(uploaded.size, uploaded.page)


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset's data before it is opened: its pages and questions, if known, and an upload's checksum."""

    size: int | None
    checksum: str | None
    questions: int | None = None

    def fit(
        self, pages: int | Literal["auto"] | None, max_pages: int | None
    ) -> tuple[int | Literal["auto"], int | None]:
        """The number of pages to read, and the maximum with `auto`: as asked, else 1,000, or a smaller dataset's pages.

        Raises InvalidParameter for more pages than the dataset has.
        """
        if self.size is None:
            return pages or DEFAULT_PAGES, max_pages
        for name, asked in (("pages", pages), ("max_pages", max_pages)):
            if isinstance(asked, int) and asked > self.size:
                raise InvalidParameter(f"{name}: the dataset has {self.size} pages, got {asked}", param=name)
        if pages == "auto":
            if self.size < 2:
                raise InvalidParameter("pages: auto compares two halves, but the dataset has one page", param="pages")
            return pages, max_pages or min(AUTO_MAX_PAGES, self.size)
        return pages or min(DEFAULT_PAGES, self.size), max_pages


def find_dataset(name: str, database: Database) -> DatasetInfo:
    """Look a dataset up, without its files. Raises DatasetNotFound and RegistryUnavailable."""
    if name in BUILT_IN:
        return DatasetInfo(None, None)
    try:
        with database.read() as session:
            record = get_dataset(session, name)
    except DatasetNotFound as error:
        raise DatasetNotFound(
            f"dataset: {name!r} is not an upload, and not one of {', '.join(BUILT_IN)}", param="dataset"
        ) from error
    return DatasetInfo(record.pages, record.checksum, record.questions)
