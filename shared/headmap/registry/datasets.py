"""Uploaded datasets: added whole, read page by page, removed whole. Their pages lie in the blob store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from headmap.errors import DatasetExists, DatasetInUse, DatasetNotFound
from headmap.registry.paging import Page, after, page_of
from headmap.registry.session import changed, utc_now
from headmap.registry.tables import Blob, Dataset, DatasetPack, DatasetPage, Job, JobState


@dataclass(frozen=True)
class DatasetRecord:
    """An uploaded dataset without its pages. It never changes; `bytes` counts pictures and records."""

    id: str
    name: str
    pages: int
    words: int
    questions: int
    bytes: int
    checksum: str
    created_at: datetime


@dataclass(frozen=True)
class PackRecord:
    """Pages `first` to `first + pages - 1` of a dataset lie in the blob with this checksum."""

    first: int
    pages: int
    checksum: str


def add_dataset(
    session: Session,
    name: str,
    packs: Iterable[tuple[int, int, str]],
    *,
    pages: int,
    words: int,
    questions: int,
    size: int,
    checksum: str,
) -> tuple[DatasetRecord, bool]:
    """File a checked dataset, or find the equal one of this name. Also returns whether it is new.

    `packs`: the first page, the number of pages and the blob's row of each. Raises DatasetExists if the name has other
    pages, and sqlalchemy's IntegrityError if another transaction takes the name at the same moment, or clears one of
    the blobs away: write them again.
    """
    found = find_equal(session, name, checksum)
    if found is not None:
        return found, False
    dataset = Dataset(
        id=uuid.uuid4().hex,
        name=name,
        pages=pages,
        words=words,
        questions=questions,
        bytes=size,
        checksum=checksum,
        created_at=utc_now(session),
    )
    session.add(dataset)
    session.flush()
    session.add_all(
        DatasetPack(dataset_id=dataset.id, first=first, pages=count, blob_id=blob_id) for first, count, blob_id in packs
    )
    session.flush()
    return _record(dataset), True


def find_equal(session: Session, name: str, checksum: str) -> DatasetRecord | None:
    """Find the dataset of this name and checksum. Raises DatasetExists if the name has other pages."""
    found = session.scalar(select(Dataset).where(Dataset.name == name))
    if found is None:
        return None
    if found.checksum != checksum:
        raise DatasetExists(f"name: {name!r} holds other pages; remove the dataset first", param="name")
    return _record(found)


def get_dataset(session: Session, name: str) -> DatasetRecord:
    """Return an uploaded dataset by name. Raises DatasetNotFound."""
    found = session.scalar(select(Dataset).where(Dataset.name == name))
    if found is None:
        raise DatasetNotFound(f"dataset: there is no dataset {name!r}", param="dataset")
    return _record(found)


def list_datasets(session: Session, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetRecord]:
    """List uploaded datasets, newest first. Raises InvalidParameter for a malformed cursor."""
    query = select(Dataset).order_by(Dataset.created_at.desc(), Dataset.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(after(cursor, Dataset.created_at, Dataset.id))
    records = [_record(row) for row in session.scalars(query)]
    return page_of(records, limit, lambda record: (record.created_at, record.id))


def hold_dataset(session: Session, name: str, checksum: str) -> None:
    """Keep a dataset from being removed until this transaction ends. Raises DatasetNotFound if it is gone."""
    query = select(Dataset.id).where(Dataset.name == name, Dataset.checksum == checksum).with_for_update(read=True)
    if session.scalar(query) is None:
        raise DatasetNotFound(f"dataset: {name!r} has been removed", param="dataset")


def remove_dataset(session: Session, name: str) -> list[str]:
    """Remove a dataset; maps made from it stay. Returns the checksums of its blobs, which other datasets may have too.

    Raises DatasetNotFound, or DatasetInUse by a job.
    """
    dataset = session.scalar(select(Dataset).where(Dataset.name == name).with_for_update())
    if dataset is None:
        raise DatasetNotFound(f"dataset: there is no dataset {name!r}", param="name")
    job = open_job(session, name)
    if job is not None:
        raise DatasetInUse(f"name: {name!r} is being read by job {job!r}; cancel that first", param="name")
    blobs = [pack.checksum for pack in list_packs(session, dataset.id)]
    changed(session, delete(Dataset).where(Dataset.id == dataset.id))  # the foreign keys delete its packs and pages too
    return blobs


def open_job(session: Session, name: str) -> str | None:
    """Return the id of a job that reads this upload, or None. No job starts to while the upload's row is locked."""
    at_work = (Job.dataset == name, Job.dataset_checksum.is_not(None))
    open_states = Job.state.in_((JobState.QUEUED, JobState.RUNNING))
    return session.scalar(select(Job.id).where(*at_work, open_states).limit(1))


def list_packs(session: Session, dataset_id: str) -> list[PackRecord]:
    """List a dataset's packs by their first page."""
    query = select(DatasetPack.first, DatasetPack.pages, Blob.checksum).join(Blob, Blob.id == DatasetPack.blob_id)
    rows = session.execute(query.where(DatasetPack.dataset_id == dataset_id).order_by(DatasetPack.first))
    return [PackRecord(row.first, row.pages, row.checksum) for row in rows]


def read_page(session: Session, dataset_id: str, number: int) -> tuple[str, bytes] | None:
    """Return a page that lies in the registry itself: its record as JSON, and its picture file. Else None."""
    query = select(DatasetPage.record, DatasetPage.picture)
    row = session.execute(query.where(DatasetPage.dataset_id == dataset_id, DatasetPage.number == number)).one_or_none()
    return None if row is None else (row.record, row.picture)


def _record(row: Dataset) -> DatasetRecord:
    return DatasetRecord(**{field.name: getattr(row, field.name) for field in fields(DatasetRecord)})
