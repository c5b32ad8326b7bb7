"""Which shards to tell workers of: those that are due and that no message in the broker stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal_column, or_, select, update
from sqlalchemy.orm import Session

from headmap.jobs.queues import JobQueue
from headmap.registry.session import utc_now
from headmap.registry.tables import Job, JobState, Shard, ShardState

CLOCK_SLACK = 60.0
"""Seconds by which clocks of one deployment may differ, and by which its settings may."""

_OLDEST = 16

OPEN = Job.state.in_((JobState.QUEUED, JobState.RUNNING))

QUEUED: ColumnElement[bool] = Shard.state == literal_column(f"'{ShardState.QUEUED}'")
"""As a literal: PostgreSQL uses an index on queued shards only for a query that names the state."""


def open_queues(session: Session) -> list[JobQueue]:
    """The queues of all open jobs."""
    rows = session.execute(select(Job.model, Job.revision, Job.device).where(OPEN).distinct())
    return [JobQueue(*row) for row in rows]


def claim_unannounced(
    session: Session, *, wait: float, limit: int, waiting: Mapping[JobQueue, int]
) -> dict[JobQueue, list[tuple[str, int]]]:
    """Return due shards to enqueue: never enqueued, or not taken within `wait` seconds of being enqueued.

    `waiting`: the messages that the broker still holds for each queue; as many shards just wait for their turn. Each of
    these queues gets shards of its oldest jobs, until it has `limit`. This marks the returned shards, so that another
    sweeper does not return them too.
    """
    roomy = [queue for queue, messages in waiting.items() if messages < limit]
    if not roomy:
        return {}
    now = utc_now(session)
    # As an expression, which no index has: SQLite would look through all due shards, not through those of one job.
    never = Shard.enqueued_at.is_(None) & (func.coalesce(Shard.due_at, now) <= now)
    before = Shard.enqueued_at < now - timedelta(seconds=wait)
    set_back = Shard.enqueued_at > now + timedelta(seconds=CLOCK_SLACK)
    claimed = {}
    for queue in roomy:
        room = limit - waiting[queue]
        shards = _claim(session, queue, never, room, now)
        for kind in (before, set_back):
            if len(shards) < room:
                # As many of the shards enqueued before are still in the queue as the broker has messages.
                lost = _count(session, queue, kind, limit) - waiting[queue]
                shards += _claim(session, queue, kind, min(lost, room - len(shards)), now)
        if shards:
            claimed[queue] = shards
    return claimed


def has_unannounced(session: Session, job_id: str) -> bool:
    """Whether a job has open shards that were never sent to a broker."""
    never = (Shard.job_id == job_id, QUEUED, Shard.enqueued_at.is_(None))
    return session.scalar(select(Shard.number).where(*never).limit(1)) is not None


def another_due(
    session: Session, job_id: str, *, device: str | None, excluded: Sequence[str]
) -> tuple[str, int] | None:
    """A due shard of another job with this job's model, as (job id, number). `excluded`: of none of these jobs."""
    this = session.get(Job, job_id)
    if this is None:
        return None
    same = (Job.model == this.model, Job.revision == this.revision, or_(Job.device.is_(None), Job.device == device))
    due = (QUEUED, Shard.due_at <= utc_now(session))
    query = select(Shard.job_id, Shard.number).join(Job).where(OPEN, *same, Job.id.not_in(excluded), *due)
    row = session.execute(query.order_by(Job.created_at, Job.id, Shard.number).limit(1)).one_or_none()
    return None if row is None else (row.job_id, row.number)


def _claim(
    session: Session, queue: JobQueue, kind: ColumnElement[bool], room: int, now: datetime
) -> list[tuple[str, int]]:
    """Mark up to `room` queued shards of a kind as enqueued, of the oldest jobs first. Returns (job id, number)."""
    found: list[tuple[str, int]] = []
    for job_id in _jobs_with(session, queue, kind) if room > 0 else ():
        of_job = _queued(job_id, kind, room - len(found)).with_for_update(skip_locked=True)
        mark = update(Shard).where(Shard.job_id == job_id, Shard.number.in_(of_job)).values(enqueued_at=now)
        mark = mark.execution_options(synchronize_session=False)
        numbers = session.scalars(mark.returning(Shard.number)).all()
        found += [(job_id, number) for number in sorted(numbers)]
        if len(found) == room:
            break
    return found


def _count(session: Session, queue: JobQueue, kind: ColumnElement[bool], most: int) -> int:
    """Count a queue's queued shards of a kind, up to `most` or a few more."""
    count = 0
    for job_id in _jobs_with(session, queue, kind):
        few = _queued(job_id, kind, most).subquery()
        count += session.scalars(select(func.count()).select_from(few)).one()
        if count >= most:
            break
    return count


def _jobs_with(session: Session, queue: JobQueue, kind: ColumnElement[bool]) -> Iterator[str]:
    """The ids of the queue's open jobs that have queued shards of a kind, oldest first.

    The index answers with a look for each job. It looks for all jobs only if the caller has use for more than the
    oldest ones.
    """
    of_queue = (Job.model == queue.model, Job.revision == queue.revision, Job.device == queue.device)
    in_order = select(Job.id, Job.created_at).where(OPEN, *of_queue).order_by(Job.created_at, Job.id)
    for some_jobs in (in_order.limit(_OLDEST), in_order.offset(_OLDEST)):
        jobs = some_jobs.subquery()
        some = select(Shard.number).where(Shard.job_id == jobs.c.id, QUEUED, kind).exists()
        yield from session.scalars(select(jobs.c.id).where(some).order_by(jobs.c.created_at, jobs.c.id)).all()


def _queued(job_id: str, kind: ColumnElement[bool], most: int) -> Select[Any]:
    """Select up to `most` queued shards of a job, in the index's order."""
    query = select(Shard.number).where(Shard.job_id == job_id, QUEUED, kind)
    return query.order_by(Shard.enqueued_at, Shard.due_at, Shard.number).limit(most)
