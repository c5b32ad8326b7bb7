"""A job by hand: the steps that a worker takes, one at a time, and what the registry then says of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import func, select, update

from headmap.jobs.announcing import claim_unannounced
from headmap.jobs.broker import Broker
from headmap.jobs.kinds import KINDS
from headmap.jobs.leases import Lease, acquire, complete, complete_fold, fail
from headmap.jobs.results import stream_results
from headmap.jobs.submit import announce, write_job
from headmap.models import ModelInfo
from headmap.page_sums import PageSums
from headmap.registry import maps
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import JobRecord, add_job, get_job
from headmap.registry.session import Database, utc_now
from headmap.registry.tables import FOLD, Map, Shard, ShardState
from headmap.settings import Settings
from tests.shared.jobs.fakes import INFO, QUEUE, FakeScorer, page_scores

PARAMS = JobParams(dataset="synthetic", pages=10, rule="aligned", seed=0, max_new_tokens=64)
SHARDS = 3  # of 4, 4 and 2 pages
AUTO = replace(PARAMS, pages=6, min_pages=6, max_pages=40, stable_overlap=1.0)


def submit(
    database: Database,
    broker: Broker,
    settings: Settings,
    info: ModelInfo,
    params: JobParams,
    *,
    force: bool = False,
    idempotency_key: str | None = None,
) -> tuple[JobRecord, bool]:
    """Write and announce a job, as the scoring API does; also returns whether it is new."""
    record, shards, created = write_job(database, settings, info, params, force=force, idempotency_key=idempotency_key)
    announce(broker, record, shards)
    return record, created


def make_job(
    database: Database, *, force: bool = True, params: JobParams = PARAMS, request_id: str | None = None
) -> str:
    with database.write() as session:
        return add_job(session, INFO, params, shard_pages=4, announce=100, force=force, request_id=request_id)[0]


def lease(database: Database, job: str, number: int, owner: str = "a") -> Lease | None:
    with database.write() as session:
        return acquire(session, job, number, owner=owner, seconds=60)


def held(database: Database, job: str, number: int, owner: str = "a") -> Lease:
    found = lease(database, job, number, owner)
    if found is None:
        raise LookupError(f"shard {number} could not be leased")
    return found


def score(database: Database, found: Lease) -> bool:
    """Do a shard, but not the fold that it makes due."""
    result = FakeScorer()(found.spec, lambda done: None)
    with database.write() as session:
        return complete(session, found, result)


def finish(database: Database, found: Lease) -> bool:
    done = score(database, found)
    fold_if_due(database, found.spec.job_id)
    return done


def fold_if_due(database: Database, job: str) -> None:
    found = lease(database, job, FOLD)
    bodies = list(stream_results(database, job)) if found is not None else []
    if found is not None and bodies:  # a cancel after the lease leaves none
        settle = KINDS[found.spec.kind].fold(found.spec, iter(bodies))
        with database.write() as session:
            complete_fold(session, found, settle)


def fails(database: Database, found: Lease, *, permanent: bool = False, max_attempts: int = 3) -> bool:
    with database.write() as session:
        return bool(fail(session, found, "broken", permanent=permanent, max_attempts=max_attempts, back_off=0))


def claim(database: Database, *, waiting: int = 0, wait: float = 10, limit: int = 1000) -> list[tuple[str, int]]:
    """The shards that a sweeper would send to the queue of any device, where `waiting` messages are."""
    with database.write() as session:
        return claim_unannounced(session, wait=wait, limit=limit, waiting={QUEUE: waiting}).get(QUEUE, [])


def let_run_out(database: Database, job: str) -> None:
    """As if the worker had not renewed for a minute."""
    with database.write() as session:
        past = utc_now(session) - timedelta(seconds=1)
        session.execute(
            update(Shard).where(Shard.job_id == job, Shard.lease_until.is_not(None)).values(lease_until=past)
        )


def later(database: Database, job: str, by: timedelta) -> None:
    """Move all that its shards wait for."""
    with database.write() as session:
        for shard in session.scalars(select(Shard).where(Shard.job_id == job)):
            shard.due_at += by
            shard.enqueued_at = None if shard.enqueued_at is None else shard.enqueued_at + by
            shard.lease_until = None if shard.lease_until is None else shard.lease_until + by


def read_job(database: Database, job: str) -> JobRecord:
    with database.read() as session:
        return get_job(session, job)


def shard_state(database: Database, job: str, number: int) -> str:
    with database.read() as session:
        return session.execute(select(Shard.state).where(Shard.job_id == job, Shard.number == number)).scalar_one()


def failure(database: Database, job: str, number: int) -> str | None:
    """Why the last attempt at a shard failed."""
    with database.read() as session:
        return session.scalar(select(Shard.error).where(Shard.job_id == job, Shard.number == number))


def checksum(database: Database, job: str) -> str:
    map_id = read_job(database, job).map_id
    with database.read() as session:
        return maps.get_map(session, map_id or "").checksum


def maps_of(database: Database, job: str) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).where(Map.job_id == job)) or 0


def open_shards(database: Database, job: str) -> list[int]:
    query = select(Shard.number).where(Shard.job_id == job, Shard.state == ShardState.QUEUED).order_by(Shard.number)
    with database.read() as session:
        return list(session.scalars(query))


def read_on(database: Database, job: str) -> list[int]:
    """Do a job to its end; returns the pages in all that were planned round by round."""
    rounds = []
    while not read_job(database, job).state.ended:
        rounds.append(read_job(database, job).total)
        for number in open_shards(database, job):
            assert finish(database, held(database, job, number))
    return rounds


def page_sums(number: int, seed: int = 0) -> PageSums:
    return PageSums.of_page(number, page_scores(seed, number), tokens_seen=10, tokens_matched=9, hits=7)
