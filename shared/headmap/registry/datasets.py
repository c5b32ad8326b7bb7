"""Uploaded datasets: added whole, read page by page, removed whole. Every worker with the registry can read them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from headmap.errors import DatasetExists, DatasetInUse, DatasetNotFound
from headmap.registry.paging import Page, after, page_of
from headmap.registry.session import changed, utc_now
from headmap.registry.tables import Dataset, DatasetPage, Job, JobState

_BATCH_BYTES = 4 * 2**20


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


def add_dataset(
    session: Session,
    name: str,
    rows: Iterable[tuple[str, bytes]],
    *,
    pages: int,
    words: int,
    questions: int,
    size: int,
    checksum: str,
) -> tuple[DatasetRecord, bool]:
    """File a checked dataset, or find the equal one of this name. Also returns whether it is new.

    `rows`: each page's record as JSON, and its picture file. Raises DatasetExists if the name has other pages, and
    sqlalchemy's IntegrityError if another transaction takes the name at the same moment: run it again.
    """
    found = session.scalar(select(Dataset).where(Dataset.name == name))
    if found is not None:
        if found.checksum != checksum:
            raise DatasetExists(f"name: {name!r} holds other pages; remove the dataset first", param="name")
        return _record(found), False
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
    for batch in _batches(dataset.id, rows):
        session.execute(insert(DatasetPage), batch)
    return _record(dataset), True


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


def remove_dataset(session: Session, name: str) -> None:
    """Remove a dataset with its pages; maps made from it stay. Raises DatasetNotFound, or DatasetInUse by a job."""
    dataset = session.scalar(select(Dataset).where(Dataset.name == name).with_for_update())
    if dataset is None:
        raise DatasetNotFound(f"dataset: there is no dataset {name!r}", param="name")
    at_work = (Job.dataset == name, Job.dataset_checksum.is_not(None))
    open_states = Job.state.in_((JobState.QUEUED, JobState.RUNNING))
    job = session.scalar(select(Job.id).where(*at_work, open_states).limit(1))
    if job is not None:
        raise DatasetInUse(f"name: {name!r} is being read by job {job!r}; cancel that first", param="name")
    changed(session, delete(Dataset).where(Dataset.id == dataset.id))  # the foreign key deletes its pages too


def read_page(session: Session, dataset_id: str, number: int) -> tuple[str, bytes]:
    """Return a page's record as JSON, and its picture file. Raises DatasetNotFound if the dataset is gone."""
    query = select(DatasetPage.record, DatasetPage.picture)
    row = session.execute(query.where(DatasetPage.dataset_id == dataset_id, DatasetPage.number == number)).one_or_none()
    if row is None:
        raise DatasetNotFound("dataset: it has been removed while it was read", param="dataset")
    return row.record, row.picture


def _batches(dataset_id: str, rows: Iterable[tuple[str, bytes]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    held = 0
    for number, (record, picture) in enumerate(rows):
        batch.append({"dataset_id": dataset_id, "number": number, "record": record, "picture": picture})
        held += len(picture)
        if held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _record(row: Dataset) -> DatasetRecord:
    return DatasetRecord(**{field.name: getattr(row, field.name) for field in fields(DatasetRecord)})
