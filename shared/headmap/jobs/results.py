"""The stored results of a job's shards: bytes in the form of the job's kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sqlalchemy import Row, delete, select
from sqlalchemy.orm import Session

from headmap.registry.session import Database, changed
from headmap.registry.tables import FOLD, StoredResult

_AT_ONCE = 32


def stream_results(database: Database, job_id: str, *, seconds: float = 30.0) -> Iterator[bytes]:
    """Read a job's results in the order of its shards, few at a time; a total of former rounds comes first.

    No transaction stays open in between. Waits up to `seconds` for an unavailable registry, then raises
    RegistryUnavailable.
    """

    def after(session: Session, number: int) -> Sequence[Row[int, bytes]]:
        query = select(StoredResult.number, StoredResult.body).where(
            StoredResult.job_id == job_id, StoredResult.number > number
        )
        return session.execute(query.order_by(StoredResult.number).limit(_AT_ONCE)).all()

    last = FOLD - 1
    while rows := database.patiently(partial(after, number=last), seconds=seconds):
        yield from (row.body for row in rows)
        last = rows[-1].number


def drop_results(session: Session, job_id: str) -> None:
    changed(session, delete(StoredResult).where(StoredResult.job_id == job_id))


def replace_results(session: Session, job_id: str, total: bytes) -> None:
    """Put a running total in place of the results that it adds up."""
    drop_results(session, job_id)
    session.add(StoredResult(job_id=job_id, number=FOLD, body=total))
    session.flush()
