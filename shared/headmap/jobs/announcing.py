"""Which shards to tell workers of: those that are due and that no message in the broker stands for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

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
    roomy = [queue for queue, messages in waiting.items() if messages < limit]
    if not roomy:
        return {}
    now = utc_now(session)
    never = Shard.enqueued_at.is_(None) & (Shard.due_at <= now)
    before = Shard.enqueued_at < now - timedelta(seconds=wait)
    set_back = Shard.enqueued_at > now + timedelta(seconds=CLOCK_SLACK)
    claimed = {}
    for queue in roomy:
        found = _claim_of(session, queue, (never, before, set_back), limit - waiting[queue])
        new = [(job_id, number) for job_id, number, at in found if at is None]
        old = sorted((at, job_id, number) for job_id, number, at in found if at is not None)
        # As many of the shards enqueued before are still in the queue as the broker has messages.
        lost = [(job_id, number) for _, job_id, number in old[: max(0, len(old) - waiting[queue])]]
        if new or lost:
            claimed[queue] = new + lost
            _mark(session, claimed[queue], now)
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


def _claim_of(
    session: Session, queue: JobQueue, kinds: Sequence[ColumnElement[bool]], room: int
) -> list[tuple[str, int, datetime | None]]:
    """Lock up to `room` queued shards of a queue's jobs, of the first kinds first, then of the oldest jobs.

    Returns them as (job id, number, enqueued at).
    """
    found: list[tuple[str, int, datetime | None]] = []
    for kind in kinds:
        if len(found) == room:
            break
        some = select(Shard.number).where(Shard.job_id == Job.id, QUEUED, kind).exists()
        of_queue = (Job.model == queue.model, Job.revision == queue.revision, Job.device == queue.device)
        jobs = select(Job.id).where(OPEN, *of_queue, some).order_by(Job.created_at, Job.id).limit(room - len(found))
        for job_id in session.scalars(jobs).all():
            if len(found) < room:
                found += _claim(session, job_id, kind, room - len(found))
    return found


def _claim(
    session: Session, job_id: str, kind: ColumnElement[bool], room: int
) -> list[tuple[str, int, datetime | None]]:
    """Lock up to `room` queued shards of a job and a kind, in the index's order."""
    query = (
        select(Shard.number, Shard.enqueued_at)
        .where(Shard.job_id == job_id, QUEUED, kind)
        .order_by(Shard.enqueued_at, Shard.due_at, Shard.number)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    return [(job_id, row.number, row.enqueued_at) for row in session.execute(query)]


def _mark(session: Session, shards: Sequence[tuple[str, int]], now: datetime) -> None:
    numbers: dict[str, list[int]] = defaultdict(list)
    for job_id, number in shards:
        numbers[job_id].append(number)
    for job_id, of_job in numbers.items():
        claimed = (Shard.job_id == job_id, Shard.number.in_(of_job))
        changed(session, update(Shard).where(*claimed).values(enqueued_at=now))
