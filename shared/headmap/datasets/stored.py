"""Uploaded pages, read one at a time."""

from __future__ import annotations

from bisect import bisect_right

from headmap.blobs.store import BlobStore
from headmap.datasets.packs import page_of
from headmap.datasets.pictures import page_picture
from headmap.datasets.records import parse_record
from headmap.errors import DatasetNotFound, DatasetUnavailable
from headmap.registry.datasets import PackRecord, get_dataset, list_packs, read_page
from headmap.registry.session import Database
from headmap.scoring.pages import Page


class UploadedPages:
    """The upload called `name`. Holds the pack that was read last, some megabytes.

    Raises DatasetNotFound, also if its checksum differs from `checksum`.
    """

    def __init__(self, database: Database, blobs: BlobStore, name: str, checksum: str | None = None) -> None:
        self._database, self._blobs = database, blobs
        with database.read() as session:
            self._record = get_dataset(session, name)
            self._packs = list_packs(session, self._record.id)
        if checksum not in (None, self._record.checksum):
            raise DatasetNotFound(f"dataset: {name!r} now holds other pages", param="dataset")
        self._held = ("", b"")

    @property
    def size(self) -> int:
        return self._record.pages

    def page(self, number: int) -> Page:
        """Raises DatasetUnavailable for a blob that is missing, damaged or out of reach, and DatasetNotFound."""
        where = f"dataset {self._record.name!r}, page {number}"
        try:
            line, picture = self._read(number)
        except DatasetUnavailable as error:
            self._check_it_is_there()
            raise DatasetUnavailable(f"{where}: {error.detail}") from error
        record = parse_record(line, where)
        return Page(page_picture(picture, where), record.words, record.questions)

    def _read(self, number: int) -> tuple[str, bytes]:
        pack = self._pack(number)
        if pack is None:
            with self._database.read() as session:
                found = read_page(session, self._record.id, number)
                if found is not None:
                    return found
                self._packs = list_packs(session, self._record.id)  # it may have been moved into one
            pack = self._pack(number)
        if pack is None:
            self._check_it_is_there()
            raise DatasetUnavailable("neither the registry nor a pack has it")
        if self._held[0] != pack.checksum:
            self._held = (pack.checksum, self._blobs.read(pack.checksum))
        return page_of(self._held[1], number - pack.first)

    def _pack(self, number: int) -> PackRecord | None:
        place = bisect_right(self._packs, number, key=lambda pack: pack.first) - 1
        if place < 0 or number >= self._packs[place].first + self._packs[place].pages:
            return None
        return self._packs[place]

    def _check_it_is_there(self) -> None:
        with self._database.read() as session:
            if get_dataset(session, self._record.name).id != self._record.id:
                raise DatasetNotFound("dataset: it has been removed while it was read", param="dataset")
