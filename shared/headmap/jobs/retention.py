"""Delete jobs that ended long ago, with their shards, looks and idempotency keys. What jobs have filed stays."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.orm import Session

from headmap.registry.session import Database, changed, utc_now
from headmap.registry.tables import Job, JobState, Map
from headmap.settings import Settings

_AT_ONCE = 20


def forget_old_jobs(database: Database, settings: Settings) -> int:
    """Delete a few jobs that ended more than `settings.keep_jobs_days` ago, each in a transaction of its own.

    A profile with its map stays, and so does every job of another kind that succeeded, since it is the result's only
    place. Returns how many were deleted. Raises RegistryUnavailable.
    """
    if settings.keep_jobs_days == 0:
        return 0
    with database.read() as session:
        old = _old_jobs(session, timedelta(days=settings.keep_jobs_days))
    for job_id in old:
        with database.write() as session:
            changed(session, delete(Job).where(Job.id == job_id))
    return len(old)


def _old_jobs(session: Session, age: timedelta) -> list[str]:
    has_map = select(Map.id).where(Map.job_id == Job.id).exists()
    nothing_filed = or_(Job.state != JobState.SUCCEEDED, and_(Job.kind == "profile", ~has_map))
    query = select(Job.id).where(Job.finished_at < utc_now(session) - age, nothing_filed)
    return list(session.scalars(query.limit(_AT_ONCE)))
