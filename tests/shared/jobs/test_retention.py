"""Which ended jobs are deleted after a while, and with what; and which stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from headmap.jobs.retention import forget_old_jobs
from headmap.registry import maps
from headmap.registry.jobs import add_job, cancel_job
from headmap.registry.session import Database, utc_now
from headmap.registry.tables import IdempotencyKey, Job, JobState, PageLook, Shard, StoredResult
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO


@pytest.fixture
def week(settings: Settings) -> Settings:
    return settings.model_copy(update={"keep_jobs_days": 7})


def job(database: Database, key: str) -> str:
    with database.write() as session:
        made = add_job(session, INFO, steps.PARAMS, shard_pages=4, announce=9, force=True, idempotency_key=key)
    return made[0]


def succeeded(database: Database, key: str = "succeeded") -> str:
    made = job(database, key)
    steps.read_on(database, made)
    return made


def age(database: Database, days: float) -> None:
    """Let all jobs be that old."""
    with database.write() as session:
        ended = utc_now(session) - timedelta(days=days)
        session.execute(update(Job).values(created_at=ended))
        session.execute(update(Job).where(Job.finished_at.is_not(None)).values(finished_at=ended))


def jobs(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Job.id)))


def test_what_has_filed_nothing_goes_with_all_its_rows(database: Database, week: Settings) -> None:
    failed, cancelled, unmapped = job(database, "failed"), job(database, "cancelled"), succeeded(database)
    steps.finish(database, steps.held(database, failed, 0))
    steps.fails(database, steps.held(database, failed, 1), permanent=True)
    let_go = unserved_map(database, unmapped)
    with database.write() as session:
        cancel_job(session, cancelled)
        maps.delete_map(session, let_go)
    age(database, 8)
    assert forget_old_jobs(database, week) == 3
    kept = jobs(database)
    assert kept.isdisjoint({failed, cancelled, unmapped})
    with database.read() as session:
        for table in (Shard, StoredResult, PageLook, IdempotencyKey):
            assert set(session.scalars(select(table.job_id))) <= kept


def unserved_map(database: Database, of_job: str) -> str:
    """The map of a job, after another map took the alias that held it."""
    served = steps.make_job(database, params=replace(steps.PARAMS, promote=True, seed=9))
    steps.read_on(database, served)
    return steps.read_job(database, of_job).map_id or ""


def test_a_job_with_its_map_and_an_evaluation_stay(database: Database, week: Settings) -> None:
    profile, evaluation, open_job = succeeded(database), job(database, "evaluation"), job(database, "open")
    with database.write() as session:
        values = {"kind": "evaluation", "state": JobState.SUCCEEDED, "finished_at": utc_now(session)}
        session.execute(update(Job).where(Job.id == evaluation).values(**values))
    age(database, 1000)
    assert forget_old_jobs(database, week) == 0
    assert jobs(database) == {profile, evaluation, open_job}


@pytest.mark.parametrize(("days", "old"), [(7, 6.9), (0, 1000)])
def test_younger_jobs_stay_and_zero_keeps_all(database: Database, settings: Settings, days: float, old: float) -> None:
    cancelled = job(database, "cancelled")
    with database.write() as session:
        cancel_job(session, cancelled)
    age(database, old)
    assert forget_old_jobs(database, settings.model_copy(update={"keep_jobs_days": days})) == 0
    assert jobs(database) == {cancelled}


def test_many_go_a_few_at_a_time(database: Database, week: Settings) -> None:
    for number in range(25):
        made = job(database, str(number))
        with database.write() as session:
            cancel_job(session, made)
    age(database, 8)
    assert [forget_old_jobs(database, week) for _ in range(3)] == [20, 5, 0]
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Shard)) == 0
