"""Which shards to tell workers of: those that are due and that no message in the broker stands for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, literal_column, or_, select, update
from sqlalchemy.orm import Session

from headmap.jobs.queues import JobQueue
from headmap.registry.session import changed, utc_now
from headmap.registry.tables import Job, JobState, Shard, ShardState

CLOCK_SLACK = 60.0
"""Seconds by which clocks of one deployment may differ, and by which its settings may."""

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
    now = utc_now(session)
    never = Shard.enqueued_at.is_(None) & (Shard.due_at <= now)
    before = Shard.enqueued_at < now - timedelta(seconds=wait)
    found_never: dict[JobQueue, list[tuple[str, int]]] = defaultdict(list)
    found_before: dict[JobQueue, list[tuple[datetime, str, int]]] = defaultdict(list)
    for row in session.execute(_jobs_with(never, before)).all():
        queue = JobQueue(row.model, row.revision, row.device)
        if queue not in waiting:
            continue  # opened a moment ago
        room = limit - waiting[queue] - len(found_never[queue])
        found_never[queue] += [(row.id, number) for number, _ in _claim(session, row.id, never, room)]
        room = limit - waiting[queue] - len(found_never[queue]) - len(found_before[queue])
        found_before[queue] += [(at, row.id, number) for number, at in _claim(session, row.id, before, room)]
    chosen = {}
    for queue, shards in found_never.items():
        # As many of the shards enqueued before are still in the queue as the broker has messages.
        lost = sorted(found_before[queue])[: max(0, len(found_before[queue]) - waiting[queue])]
        chosen[queue] = shards + [(job_id, number) for _, job_id, number in lost]
        _mark(session, chosen[queue], now)
    return {queue: shards for queue, shards in chosen.items() if shards}


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


def _jobs_with(*kinds: ColumnElement[bool]) -> Any:
    """Select open jobs that have a queued shard of one of these kinds, oldest first."""
    of_job = select(Shard.number).where(Shard.job_id == Job.id, QUEUED)
    some = or_(*(of_job.where(kind).exists() for kind in kinds))
    query = select(Job.id, Job.model, Job.revision, Job.device)
    return query.where(OPEN, some).order_by(Job.created_at, Job.id)


def _claim(session: Session, job_id: str, kind: ColumnElement[bool], room: int) -> list[tuple[int, datetime]]:
    """Lock up to `room` queued shards of a job and return them as (number, enqueued at), in the index's order."""
    if room <= 0:
        return []
    query = (
        select(Shard.number, Shard.enqueued_at)
        .where(Shard.job_id == job_id, QUEUED, kind)
        .order_by(Shard.enqueued_at, Shard.due_at, Shard.number)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    return [(row.number, row.enqueued_at) for row in session.execute(query)]


def _mark(session: Session, shards: Sequence[tuple[str, int]], now: datetime) -> None:
    numbers: dict[str, list[int]] = defaultdict(list)
    for job_id, number in shards:
        numbers[job_id].append(number)
    for job_id, of_job in numbers.items():
        claimed = (Shard.job_id == job_id, Shard.number.in_(of_job))
        changed(session, update(Shard).where(*claimed).values(enqueued_at=now))
