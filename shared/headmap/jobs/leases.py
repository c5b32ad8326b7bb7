"""Leases on shards: which worker has which shard, for how long, and whose results are accepted.

A lease has an owner, an attempt number and an expiry. Only the newest attempt of a running shard may renew the lease,
write the result or fail the shard, so late results of a worker thought dead are refused. Leasing and ending a shard
hold the lock on its job's row (`headmap.registry.jobs.lock_job`), so all workers agree which shard is the last. The
fold of a job is leased like a shard, with the number FOLD.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, literal_column, select, update
from sqlalchemy.orm import Session

from headmap.jobs.announcing import CLOCK_SLACK
from headmap.jobs.kinds import KINDS, Settle
from headmap.jobs.work import ShardResult, ShardSpec
from headmap.registry.jobs import end_job, lock_job, queue_fold
from headmap.registry.looks import add_looks
from headmap.registry.session import changed, utc_now
from headmap.registry.tables import FOLD, Job, JobState, Shard, ShardState, StoredResult

MAX_BACK_OFF = 300.0

_RUNNING = Shard.state == literal_column(f"'{ShardState.RUNNING}'")
"""As a literal, so that PostgreSQL uses the index on running shards."""


@dataclass(frozen=True)
class Lease:
    """The right to work on a shard. It ends if it is not renewed in time."""

    spec: ShardSpec
    owner: str
    attempt: int
    request_id: str | None = None
    """Of the request that made the job."""
    traceparent: str | None = None
    """The span of that request."""


def acquire(
    session: Session,
    job_id: str,
    number: int,
    *,
    owner: str,
    seconds: float,
    max_attempts: int | None = None,
    device: str | None = None,
) -> Lease | None:
    """Lease a shard that is due or whose lease has expired. Returns None if the shard needs no work, or not from here.

    The first lease of a job sets the job to `running`, and to the owner's kind of `device`: owners of another kind get
    no lease, except on the fold. An expired lease is a failed attempt, and the `max_attempts`-th failed attempt fails
    the job.
    """
    job = lock_job(session, job_id)
    if job is None or JobState(job.state).ended:
        return None
    if number != FOLD and device is not None and job.device not in (None, device):
        return None
    now = utc_now(session)
    shard = session.get(Shard, (job_id, number), populate_existing=True)
    if shard is None:
        return None
    ran_out = shard.state == ShardState.RUNNING and shard.lease_until is not None and shard.lease_until < now
    if not ran_out and (shard.state != ShardState.QUEUED or shard.due_at > now):
        return None
    if ran_out:
        if max_attempts is not None and shard.failures + 1 >= max_attempts:
            _failed(session, job, shard, _not_renewed(shard), permanent=False, max_attempts=max_attempts, back_off=0)
            return None
        shard.failures += 1
    shard.state = ShardState.RUNNING
    shard.attempt += 1
    if number != FOLD:
        job.attempts = max(job.attempts, shard.attempt)
    shard.owner = owner
    shard.lease_until = now + timedelta(seconds=seconds)
    shard.pages_done = 0
    if job.device is None:
        job.device = device
    if job.state == JobState.QUEUED:
        job.state = JobState.RUNNING
        job.started_at = now
    session.flush()
    spec = ShardSpec(
        job_id=job_id,
        kind=job.kind,
        number=number,
        model=job.model,
        revision=job.revision,
        dataset=job.dataset,
        dataset_checksum=job.dataset_checksum,
        seed=job.seed,
        first=shard.first,
        count=shard.count,
        max_new_tokens=job.max_new_tokens,
        parameters=KINDS[job.kind].parameters(session, job),
    )
    return Lease(spec, owner, shard.attempt, job.request_id, job.traceparent)


def renew(session: Session, lease: Lease, *, seconds: float, pages_done: int) -> bool:
    """Extend a lease and write its progress. False if the lease was taken over, cancelled or handed back."""
    values = {"lease_until": utc_now(session) + timedelta(seconds=seconds), "pages_done": pages_done}
    return bool(changed(session, update(Shard).where(*_held(lease)).values(**values)))


def complete(session: Session, lease: Lease, result: ShardResult) -> bool:
    """Write a shard's result, and make the job's fold due if this was its last shard. False if the lease is lost.

    A second write, after a commit whose answer was lost, changes nothing and returns True. Raises as the kind's `check`
    does if the result is not of this job.
    """
    job = lock_job(session, lease.spec.job_id)
    if job is None:
        return False
    KINDS[job.kind].check(job, result.body)
    if not _mark_done(session, lease):
        return _was_done(session, lease)
    number = lease.spec.number
    session.add(StoredResult(job_id=job.id, number=number, body=result.body))
    add_looks(session, job.id, result.looks)
    job.pages_done += lease.spec.count
    if job.state == JobState.RUNNING and job.pages_done == job.pages:
        queue_fold(session, job)
    session.flush()
    return True


def complete_fold(session: Session, lease: Lease, settle: Settle) -> bool:
    """Settle the job with the outcome of its fold, and drop the shards of a job that has ended. Like `complete`."""
    job = lock_job(session, lease.spec.job_id)
    if job is None:
        return False
    if not _mark_done(session, lease):
        return _was_done(session, lease)
    settle(session, job)
    if JobState(job.state).ended:
        changed(session, delete(Shard).where(Shard.job_id == job.id))
    return True


def fold_is_due(session: Session, job_id: str) -> bool:
    due = (Shard.job_id == job_id, Shard.number == FOLD, Shard.state == ShardState.QUEUED)
    return session.scalar(select(Shard.number).where(*due)) is not None


def fail(
    session: Session, lease: Lease, reason: str, *, permanent: bool, max_attempts: int, back_off: float
) -> ShardState | None:
    """Fail an attempt: queue its shard again after a back-off, or set the shard and its job to `failed`.

    Returns None if the lease is lost.
    """
    job = lock_job(session, lease.spec.job_id)
    shard = session.get(Shard, (lease.spec.job_id, lease.spec.number), populate_existing=True)
    if job is None or shard is None or shard.attempt != lease.attempt or shard.state != ShardState.RUNNING:
        return None
    _failed(session, job, shard, reason, permanent=permanent, max_attempts=max_attempts, back_off=back_off)
    return ShardState(shard.state)


def hand_back(session: Session, lease: Lease, reason: str) -> bool:
    """Give a shard back that this host cannot do, for another host. No failure is counted. False if the lease is lost.

    `reason` stays on the job, for people who wonder why it waits.
    """
    job = lock_job(session, lease.spec.job_id)
    queued = {"state": ShardState.QUEUED, "owner": None, "lease_until": None, "pages_done": 0, "enqueued_at": None}
    if job is None or not changed(session, update(Shard).where(*_held(lease)).values(**queued)):
        return False
    job.handed_back = reason
    if job.pages_done == 0 and session.scalar(select(Shard.number).where(Shard.job_id == job.id, _RUNNING)) is None:
        job.device = None  # nothing was done on it, so another kind may do all
    session.flush()
    return True


def expire(session: Session, job_id: str, number: int, *, max_attempts: int, back_off: float) -> bool:
    """Take back a shard whose lease has expired. Returns False if it has not expired, or no longer."""
    job = lock_job(session, job_id)
    shard = session.get(Shard, (job_id, number), populate_existing=True)
    if job is None or shard is None or shard.state != ShardState.RUNNING or shard.lease_until is None:
        return False
    if shard.lease_until >= utc_now(session):
        return False
    _failed(session, job, shard, _not_renewed(shard), permanent=False, max_attempts=max_attempts, back_off=back_off)
    return True


def abandon(session: Session, job_id: str, number: int, owner: str, *, max_attempts: int, back_off: float) -> bool:
    """End the attempt of an owner whose process has ended. Returns False if the owner no longer has the shard."""
    job = lock_job(session, job_id)
    shard = session.get(Shard, (job_id, number), populate_existing=True)
    if job is None or shard is None or shard.state != ShardState.RUNNING or shard.owner != owner:
        return False
    reason = f"worker {owner} ended in the middle"
    _failed(session, job, shard, reason, permanent=False, max_attempts=max_attempts, back_off=back_off)
    return True


def leased_by(session: Session, owner_prefix: str) -> list[tuple[str, int, str]]:
    """Return the running shards of owners with this prefix, as (job id, number, owner)."""
    query = select(Shard.job_id, Shard.number, Shard.owner).where(
        _RUNNING, Shard.owner.startswith(owner_prefix, autoescape=True)
    )
    return [(row.job_id, row.number, row.owner) for row in session.execute(query)]


def release(session: Session, owner_prefix: str) -> int:
    """Hand back the shards of owners with this prefix when a worker stops. Returns how many; no failure is counted."""
    now = utc_now(session)
    mine = (_RUNNING, Shard.owner.startswith(owner_prefix, autoescape=True))
    queued = {"state": ShardState.QUEUED, "owner": None, "lease_until": None, "pages_done": 0}
    return changed(session, update(Shard).where(*mine).values(**queued, due_at=now, enqueued_at=None))


def _not_renewed(shard: Shard) -> str:
    return f"worker {shard.owner} did not renew its lease"


def _failed(
    session: Session, job: Job, shard: Shard, reason: str, *, permanent: bool, max_attempts: int, back_off: float
) -> None:
    shard.failures += 1
    shard.owner = None
    shard.lease_until = None
    shard.pages_done = 0
    shard.error = reason
    if permanent or shard.failures >= max_attempts:
        shard.state = ShardState.FAILED
        session.flush()
        own = f"{KINDS[job.kind].UNIT} {shard.first} to {shard.first + shard.count - 1}"
        what = "the fold" if shard.number == FOLD else own
        times = "" if permanent else f" after {shard.failures} attempts"
        if not JobState(job.state).ended:
            end_job(session, job, JobState.FAILED, error=f"{what} failed{times}: {reason}")
        return
    delay = min(back_off * 2 ** (shard.failures - 1), MAX_BACK_OFF)
    shard.state = ShardState.QUEUED
    shard.due_at = utc_now(session) + timedelta(seconds=delay)
    shard.enqueued_at = None
    session.flush()


def shorten_waits(session: Session, *, lease_seconds: float) -> int:
    """Shorten leases and waits that end later than anybody could have set them. Returns how many shards.

    This happens after the clock was set back. Otherwise leases of dead workers and waits would last that much longer.
    """
    now = utc_now(session)
    lease_ends, latest = now + timedelta(seconds=lease_seconds), now + timedelta(seconds=MAX_BACK_OFF)
    slack = timedelta(seconds=CLOCK_SLACK)
    running = (_RUNNING, Shard.lease_until > lease_ends + slack)
    waiting = (Shard.state == ShardState.QUEUED, Shard.due_at > latest + slack)
    return changed(session, update(Shard).where(*running).values(lease_until=lease_ends)) + changed(
        session, update(Shard).where(*waiting).values(due_at=now, enqueued_at=None)
    )


def due_leases(session: Session, limit: int) -> list[tuple[str, int]]:
    """Return shards whose lease has expired, as (job id, number)."""
    query = select(Shard.job_id, Shard.number).where(_RUNNING, Shard.lease_until < utc_now(session))
    return [(row.job_id, row.number) for row in session.execute(query.limit(limit))]


def _of(spec: ShardSpec) -> tuple[Any, ...]:
    return Shard.job_id == spec.job_id, Shard.number == spec.number


def _held(lease: Lease) -> tuple[Any, ...]:
    return *_of(lease.spec), Shard.state == ShardState.RUNNING, Shard.attempt == lease.attempt


def _mark_done(session: Session, lease: Lease) -> bool:
    done = {"state": ShardState.DONE, "lease_until": None, "pages_done": lease.spec.count, "error": None}
    return bool(changed(session, update(Shard).where(*_held(lease)).values(**done)))


def _was_done(session: Session, lease: Lease) -> bool:
    """Whether this attempt did the shard, or the fold has used and removed it."""
    shard = session.get(Shard, (lease.spec.job_id, lease.spec.number), populate_existing=True)
    return shard is None or (shard.attempt == lease.attempt and shard.state == ShardState.DONE)
