"""What the registry promises of uploaded datasets, on whatever database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from headmap.blobs.store import BlobStore, StoredBlob, checksum_of
from headmap.errors import DatasetExists, DatasetInUse, DatasetNotFound
from headmap.jobs.submit import write_job
from headmap.registry.blobs import write_blob
from headmap.registry.datasets import (
    DatasetRecord,
    PackRecord,
    add_dataset,
    get_dataset,
    list_datasets,
    list_packs,
    remove_dataset,
)
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import cancel_job
from headmap.registry.session import Database
from headmap.registry.tables import DatasetPack
from headmap.settings import Settings
from tests.shared.jobs.fakes import INFO
from tests.shared.jobs.steps import PARAMS


class NoStore(BlobStore):
    """Its blobs are none of these tests' business."""

    def __init__(self) -> None:
        super().__init__("nowhere")

    def write(self, checksum: str, data: bytes) -> None:
        pass

    def delete(self, name: str) -> None:
        pass

    def stored(self) -> Iterator[StoredBlob]:
        return iter(())

    def _read(self, checksum: str) -> bytes:
        raise NotImplementedError


def add(database: Database, name: str = "mine", checksum: str = "c" * 64, pages: int = 5) -> tuple[DatasetRecord, bool]:
    """A dataset with a page in each pack."""
    packs = [(number, 1, write_blob(database, NoStore(), bytes([number]))) for number in range(pages)]
    with database.write() as session:
        return add_dataset(session, name, packs, pages=pages, words=9, questions=1, size=77, checksum=checksum)


def pack_count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(DatasetPack)) or 0


def params(dataset: DatasetRecord) -> JobParams:
    return JobParams(**{**vars(PARAMS), "dataset": dataset.name, "dataset_checksum": dataset.checksum})


class DatasetContract:
    def test_packs_come_back_as_they_went_in(self, database: Database) -> None:
        record, created = add(database)
        assert created
        with database.read() as session:
            assert get_dataset(session, "mine") == record
            packs = list_packs(session, record.id)
        assert packs == [PackRecord(number, 1, checksum_of(bytes([number]))) for number in range(5)]

    def test_the_same_content_is_found_and_other_content_refused(self, database: Database) -> None:
        record, _ = add(database)
        assert add(database) == (record, False)
        with pytest.raises(DatasetExists, match="'mine' holds other pages"):
            add(database, checksum="d" * 64)
        assert pack_count(database) == 5

    def test_two_that_come_at_once_are_one(self, database: Database) -> None:
        def attempt(_: int) -> bool | None:
            try:
                return add(database)[1]
            except IntegrityError:
                return None

        with ThreadPoolExecutor(4) as pool:
            created = list(pool.map(attempt, range(4)))
        assert created.count(True) == 1
        assert pack_count(database) == 5

    def test_lists_are_newest_first_in_parts(self, database: Database) -> None:
        names = [f"set-{number}" for number in range(5)]
        for name in names:
            add(database, name, pages=1)
        seen: list[str] = []
        cursor = None
        while True:
            with database.read() as session:
                part = list_datasets(session, limit=2, cursor=cursor)
            seen += [record.name for record in part.items]
            cursor = part.next_cursor
            if cursor is None:
                break
        assert seen == names[::-1]

    def test_removed_is_gone_with_its_pages_and_the_name_is_free(self, database: Database) -> None:
        add(database)
        with database.write() as session:
            remove_dataset(session, "mine")
        assert pack_count(database) == 0
        with database.read() as session, pytest.raises(DatasetNotFound, match="'mine'"):
            get_dataset(session, "mine")
        with pytest.raises(DatasetNotFound, match="'mine'"), database.write() as session:
            remove_dataset(session, "mine")
        assert add(database, checksum="d" * 64)[1]

    def test_a_dataset_that_a_job_reads_stays(self, database: Database, settings: Settings) -> None:
        record, _ = add(database)
        job, _, _ = write_job(database, settings, INFO, params(record))
        assert (job.params.dataset, job.params.dataset_checksum) == ("mine", record.checksum)
        with pytest.raises(DatasetInUse, match=job.id), database.write() as session:
            remove_dataset(session, "mine")
        with database.write() as session:
            cancel_job(session, job.id)
        with database.write() as session:
            remove_dataset(session, "mine")

    def test_no_job_starts_on_a_dataset_that_has_gone(self, database: Database, settings: Settings) -> None:
        record, _ = add(database)
        with database.write() as session:
            remove_dataset(session, "mine")
        with pytest.raises(DatasetNotFound, match="'mine' has been removed"):
            write_job(database, settings, INFO, params(record))

    def test_the_same_name_with_other_pages_is_another_job(self, database: Database, settings: Settings) -> None:
        record, _ = add(database)
        first, _, _ = write_job(database, settings, INFO, params(record))
        assert write_job(database, settings, INFO, params(record))[0].id == first.id
        with database.write() as session:
            cancel_job(session, first.id)
        with database.write() as session:
            remove_dataset(session, "mine")
        other, _ = add(database, checksum="d" * 64)
        assert write_job(database, settings, INFO, params(other))[0].id != first.id
