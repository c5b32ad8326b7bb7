"""Make, find, list, count and cancel the rows of jobs and shards. headmap.jobs has the workers' side."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, func, insert, literal_column, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from headmap.errors import IdempotencyConflict, JobEnded, JobNotFound
from headmap.evaluation.params import EvaluationParams
from headmap.models import ModelInfo
from headmap.registry.aliases import Promote, take_default
from headmap.registry.datasets import hold_dataset
from headmap.registry.job_limits import OpenLimits, check_open
from headmap.registry.job_params import JobParams, request_hash
from headmap.registry.paging import Page, after, page_of
from headmap.registry.session import changed, is_id, utc_now
from headmap.registry.tables import (
    FOLD,
    EndedJobs,
    Evaluation,
    IdempotencyKey,
    Job,
    JobState,
    Map,
    PageLook,
    Shard,
    ShardState,
    StoredResult,
    WorkerModel,
)

WORKER_SEEN = timedelta(seconds=60)
"""A worker that did not say for as long which models it takes counts as gone."""


@dataclass(frozen=True)
class JobRecord:
    """A job as its readers see it. `attempts` is the maximum number of attempts over its shards.

    `result`: the curve of an evaluation that has succeeded, as JSON.
    """

    id: str
    state: JobState
    model: str
    revision: str
    params: JobParams
    done: int
    total: int
    map_id: str | None
    result: Mapping[str, Any] | None
    error: str | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    device: str | None = None
    """The kind of device that all of it runs on, once it has begun."""
    waits_for: str | None = None
    """Why no worker takes its shards; None if some may."""


def add_job(
    session: Session,
    info: ModelInfo,
    params: JobParams,
    *,
    shard_pages: int,
    announce: int,
    force: bool = False,
    idempotency_key: str | None = None,
    request_id: str | None = None,
    traceparent: str | None = None,
    key_name: str | None = None,
    limits: OpenLimits | None = None,
) -> tuple[str, list[int], bool]:
    """Write a job and its shards, or find the job of an equal request.

    Returns (job id, numbers of the first `announce` shards, whether the job is new). The caller enqueues these shards
    after the commit. Raises IdempotencyConflict for a key that came with another request, DatasetNotFound if an upload
    was removed meanwhile, TooManyJobs for a new job beyond `limits`, and sqlalchemy's IntegrityError if another
    transaction writes an equal request at the same moment: run it again in a new transaction.
    """
    key = request_hash(info, params)
    wish = "" if params.promote == "auto" else f":promote={params.promote}"
    body = hashlib.sha256(f"{key}:{force}{wish}".encode()).hexdigest()
    if idempotency_key is not None:
        seen = session.get(IdempotencyKey, (key_name or "", idempotency_key))
        if seen is not None and seen.request_hash != body:
            raise IdempotencyConflict(
                f"Idempotency-Key: {idempotency_key!r} was used with another request", param="Idempotency-Key"
            )
        if seen is not None:
            return seen.job_id, [], False
    if params.dataset_checksum is not None:
        hold_dataset(session, params.dataset, params.dataset_checksum)
    now = utc_now(session)
    job_id = None if force else session.scalar(select(Job.id).where(Job.active_key == key))
    created = job_id is None
    numbers: list[int] = []
    if job_id is None:
        if limits is not None:
            check_open(session, params.max_pages or params.pages, key_name, limits)
        if force:  # only at this point: an equal job committed since the look above must stand, and refuse this one
            session.execute(update(Job).where(Job.active_key == key).values(active_key=None))
        job_id = uuid.uuid4().hex
        told = asdict(params) | {"promote": str(params.promote).lower(), "kind": params.kind}
        told.pop("evaluation")
        job = Job(id=job_id, state=JobState.QUEUED, active_key=key, created_at=now, shard_pages=shard_pages, **told)
        job.request_id, job.traceparent, job.key_name = request_id, traceparent, key_name
        for name in ("revision", "architecture", "num_layers", "num_heads", "num_kv_heads"):
            setattr(job, name, getattr(info, name))
        job.model = info.name
        session.add(job)
        session.flush()
        if params.evaluation is not None:
            session.add(Evaluation(job_id=job_id, **params.evaluation.to_json()))
        rows = list(_shard_rows(job_id, range(params.pages), shard_pages, 0, announce, now))
        session.execute(insert(Shard), rows)
        numbers = [row["number"] for row in rows[:announce]]
    elif params.promote is True:
        _promote_too(session, job_id)
    if idempotency_key is not None:
        kept = IdempotencyKey(key_name=key_name or "", key=idempotency_key, request_hash=body, job_id=job_id)
        kept.created_at = now
        session.add(kept)
        session.flush()
    return job_id, numbers, created


def promote_of(job: Job) -> Promote:
    return "auto" if job.promote == "auto" else job.promote == "true"


def _promote_too(session: Session, job_id: str) -> None:
    """Make the map of an existing job the model's default: at once if the map exists, else when it is made."""
    job = lock_job(session, job_id)
    if job is None:
        return
    job.promote = "true"
    map_id = session.scalar(select(Map.id).where(Map.job_id == job_id))
    if map_id is not None:
        take_default(session, job.model, map_id, True, by=f"job {job_id}")
    session.flush()


def add_shards(session: Session, job: Job, pages: int) -> None:
    """Give a locked job more pages, up to `pages` in all. This does not announce the new shards."""
    before = session.scalars(select(func.max(Shard.number) + 1).where(Shard.job_id == job.id)).one()
    rows = _shard_rows(job.id, range(job.pages, pages), job.shard_pages, before, 0, utc_now(session))
    session.execute(insert(Shard), list(rows))
    job.pages = pages
    session.flush()


def queue_fold(session: Session, job: Job) -> None:
    """Make the fold of a locked job due, like a shard. Its attempts are numbered on from round to round.

    So a worker that still folds a former round cannot write its outcome.
    """
    fold = session.get(Shard, (job.id, FOLD), populate_existing=True) or Shard(
        job_id=job.id, number=FOLD, first=0, count=0
    )
    fold.due_at, fold.enqueued_at = utc_now(session), None
    fold.state, fold.failures, fold.error = ShardState.QUEUED, 0, None
    session.add(fold)
    session.flush()


def _shard_rows(
    job_id: str, pages: range, shard_pages: int, before: int, announce: int, now: datetime
) -> Iterable[dict[str, Any]]:
    """Make rows for consecutive pages, numbered from `before` on. The first `announce` count as enqueued."""
    for number, first in enumerate(pages[::shard_pages], start=before):
        yield {
            "job_id": job_id,
            "number": number,
            "first": first,
            "count": min(shard_pages, pages.stop - first),
            "state": ShardState.QUEUED,
            "attempt": 0,
            "failures": 0,
            "pages_done": 0,
            "due_at": now,
            "enqueued_at": now if number < announce else None,
        }


def get_job(session: Session, job_id: str, kind: str | None = None) -> JobRecord:
    """Return a job by id. Raises JobNotFound, also for a job that is not of this kind."""
    row = session.execute(_jobs(session).where(Job.id == job_id)).one_or_none() if is_id(job_id) else None
    if row is None or kind not in (None, row.Job.kind):
        raise JobNotFound(f"job: there is no job {job_id!r}", param="job_id")
    return _record(row)


def get_jobs(session: Session, job_ids: Collection[str]) -> dict[str, JobRecord]:
    """Return the existing jobs among `job_ids`, by id."""
    return {row.Job.id: _record(row) for row in session.execute(_jobs(session).where(Job.id.in_(job_ids)))}


def list_jobs(
    session: Session,
    kind: str | None = None,
    *,
    model: str | None = None,
    state: JobState | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[JobRecord]:
    """Jobs, newest first. Raises InvalidParameter for a malformed cursor."""
    query = _jobs(session).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if model is not None:
        query = query.where(Job.model == model)
    if state is not None:
        query = query.where(Job.state == state)
    if cursor is not None:
        query = query.where(after(cursor, Job.created_at, Job.id))
    records = [_record(row) for row in session.execute(query)]
    return page_of(records, limit, lambda record: (record.created_at, record.id))


def count_jobs(session: Session) -> dict[JobState, int]:
    """How many jobs are in each state."""
    counts = dict.fromkeys(JobState, 0)
    for state, count in session.execute(select(Job.state, func.count()).group_by(Job.state)):
        counts[JobState(state)] = count
    return counts


def count_open_shards(session: Session) -> dict[ShardState, int]:
    """Count the waiting and the running shards, by the index on their state. Folds are none."""
    counts = dict.fromkeys((ShardState.QUEUED, ShardState.RUNNING), 0)
    open_shards = Shard.state.in_(list(counts)), Shard.number != FOLD
    query = select(Shard.state, func.count()).where(*open_shards).group_by(Shard.state)
    for state, count in session.execute(query):
        counts[ShardState(state)] = count
    return counts


def count_ended_jobs(session: Session) -> dict[JobState, int]:
    """How many jobs have ever ended in each state."""
    counts = dict.fromkeys((state for state in JobState if state.ended), 0)
    for state, count in session.execute(select(EndedJobs.state, EndedJobs.count)):
        counts[JobState(state)] = count
    return counts


def lock_job(session: Session, job_id: str) -> Job | None:
    """Lock a job's row until the transaction ends, and return it; None if there is no such job.

    Who leases, completes, fails or cancels shards, or ends a job, takes this lock before it changes a row of them. So
    the last two shards to finish see each other, and these transactions cannot deadlock. Renewing, announcing and
    handing back change shards alone, and do without it. SQLite locks the whole file anyway.
    """
    query = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    return session.scalar(query)


def end_job(session: Session, job: Job, state: JobState, *, error: str | None = None) -> None:
    """End a locked job and cancel its open shards. Unless it succeeded, an equal request then starts a new job."""
    job.state = state
    job.error = error
    job.finished_at = utc_now(session)
    if state is not JobState.SUCCEEDED:
        job.active_key = None
        for rows in (PageLook, StoredResult):
            session.execute(delete(rows).where(rows.job_id == job.id))
    open_states = (ShardState.QUEUED, ShardState.RUNNING)
    open_shards = update(Shard).where(Shard.job_id == job.id, Shard.state.in_(open_states))
    changed(session, open_shards.values(state=ShardState.CANCELLED, owner=None, lease_until=None))
    session.flush()
    _count_ended(session, state)  # last, because all jobs that end wait for this row


def _count_ended(session: Session, state: JobState) -> None:
    dialect: Any = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    row = dialect.insert(EndedJobs).values(state=state, count=1)
    session.execute(row.on_conflict_do_update(index_elements=["state"], set_={"count": EndedJobs.count + 1}))


def cancel_job(session: Session, job_id: str, kind: str | None = None) -> None:
    """Cancel a job; workers on it notice within seconds. Raises JobNotFound as `get_job` does, or JobEnded."""
    job = lock_job(session, job_id) if is_id(job_id) else None
    if job is None or kind not in (None, job.kind):
        raise JobNotFound(f"job: there is no job {job_id!r}", param="job_id")
    if JobState(job.state).ended:
        raise JobEnded(f"job: {job_id!r} has ended as {job.state!r}", param="job_id")
    end_job(session, job, JobState.CANCELLED)


def forget_idempotency_keys(session: Session, older_than: timedelta = timedelta(days=1)) -> int:
    """Drop keys older than a day: no client repeats a request after that time. Returns how many."""
    cutoff = utc_now(session) - older_than
    return changed(session, delete(IdempotencyKey).where(IdempotencyKey.created_at < cutoff))


def _jobs(session: Session) -> Select[Any]:
    """Select jobs with data of other tables. A separate index finds the few running shards."""
    running = Shard.job_id == Job.id, Shard.state == literal_column(f"'{ShardState.RUNNING}'")
    under_way = select(func.coalesce(func.sum(Shard.pages_done), 0)).where(*running).correlate(Job)
    takers = (
        WorkerModel.model == Job.model,
        WorkerModel.revision == Job.revision,
        or_(Job.device.is_(None), WorkerModel.device == Job.device),
        WorkerModel.seen_at > utc_now(session) - WORKER_SEEN,
    )
    return select(
        Job,
        Evaluation,
        or_(select(WorkerModel.worker).where(*takers).exists(), select(Shard.number).where(*running).exists()).label(
            "taken"
        ),
        under_way.scalar_subquery().label("under_way"),
        select(Map.id).where(Map.job_id == Job.id).correlate(Job).scalar_subquery().label("map_id"),
    ).outerjoin(Evaluation, Evaluation.job_id == Job.id)


def _record(row: Any) -> JobRecord:
    job: Job = row.Job
    asked: Evaluation | None = row.Evaluation
    told = {field.name: getattr(job, field.name) for field in fields(JobParams) if field.name != "evaluation"}
    evaluation = None if asked is None else EvaluationParams.from_attributes(asked)
    return JobRecord(
        id=job.id,
        state=JobState(job.state),
        model=job.model,
        revision=job.revision,
        params=JobParams(**told | {"promote": promote_of(job), "evaluation": evaluation}),
        done=job.pages_done + int(row.under_way),
        total=job.pages,
        map_id=row.map_id,
        result=None if asked is None else asked.result,
        error=job.error,
        attempts=job.attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        device=job.device,
        waits_for=None if JobState(job.state).ended or row.taken else _nobody_has(job),
    )


def _nobody_has(job: Job) -> str:
    kind = "" if job.device is None else f" on {job.device}, on which the job began,"
    last = "" if job.handed_back is None else f"; the last to try was {job.handed_back}"
    return f"no worker{kind} takes model {job.model!r} at revision {job.revision}{last}"
