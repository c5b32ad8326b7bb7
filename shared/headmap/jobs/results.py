"""The stored results of a job's shards: bytes in the form of the job's kind."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from headmap.registry.session import Database, changed
from headmap.registry.tables import FOLD, StoredResult

_AT_ONCE = 32


def stream_results(database: Database, job_id: str) -> Iterator[bytes]:
    """Read a job's results in the order of its shards, few at a time; a total of former rounds comes first.

    No transaction stays open in between. Raises RegistryUnavailable.
    """
    last = FOLD - 1
    while True:
        with database.read() as session:
            query = select(StoredResult.number, StoredResult.body).where(
                StoredResult.job_id == job_id, StoredResult.number > last
            )
            rows = session.execute(query.order_by(StoredResult.number).limit(_AT_ONCE)).all()
        if not rows:
            return
        yield from (row.body for row in rows)
        last = rows[-1].number


def drop_results(session: Session, job_id: str) -> None:
    changed(session, delete(StoredResult).where(StoredResult.job_id == job_id))


def replace_results(session: Session, job_id: str, total: bytes) -> None:
    """Put a running total in place of the results that it adds up."""
    drop_results(session, job_id)
    session.add(StoredResult(job_id=job_id, number=FOLD, body=total))
    session.flush()
