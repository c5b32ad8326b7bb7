"""Uploaded pages, read from the registry one at a time."""

from __future__ import annotations

from headmap.datasets.pictures import page_picture
from headmap.datasets.records import parse_record
from headmap.errors import DatasetNotFound
from headmap.registry.datasets import get_dataset, read_page
from headmap.registry.session import Database
from headmap.scoring.pages import Page


class UploadedPages:
    """The upload called `name`. Raises DatasetNotFound, also if its checksum differs from `checksum`."""

    def __init__(self, database: Database, name: str, checksum: str | None = None) -> None:
        self._database = database
        with database.read() as session:
            self._record = get_dataset(session, name)
        if checksum not in (None, self._record.checksum):
            raise DatasetNotFound(f"dataset: {name!r} now holds other pages", param="dataset")

    @property
    def size(self) -> int:
        return self._record.pages

    def page(self, number: int) -> Page:
        with self._database.read() as session:
            line, picture = read_page(session, self._record.id, number)
        where = f"dataset {self._record.name!r}, page {number}"
        record = parse_record(line, where)
        return Page(page_picture(picture, where), record.words, record.questions)
