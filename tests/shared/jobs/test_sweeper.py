"""The sweeper: what it sends again, what it leaves alone, and that it outlives what is away."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from headmap.jobs import leases, sweeper
from headmap.jobs.leases import acquire
from headmap.jobs.queues import JobQueue
from headmap.jobs.submit import ANNOUNCE
from headmap.jobs.sweeper import SweeperThread, sweep, take_turn
from headmap.registry.jobs import add_job
from headmap.registry.session import Database, utc_now
from headmap.registry.tables import JobState, Shard, ShardState, Sweep
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO, QUEUE, CountingBroker


def settled(settings: Settings) -> Settings:
    return settings.model_copy(update={"sweep_seconds": 0.1})


def test_shards_that_never_arrived_are_sent_again(database: Database, settings: Settings) -> None:
    job = steps.submit(database, CountingBroker(away=True), settings, INFO, steps.PARAMS)[0]
    time.sleep(0.15)
    broker = CountingBroker()
    assert sweep(database, broker, settled(settings)) == 3
    assert broker.sent == [(job.id, 0), (job.id, 1), (job.id, 2)]


def test_shards_that_wait_in_the_broker_are_left_alone(database: Database, settings: Settings) -> None:
    steps.submit(database, CountingBroker(), settings, INFO, steps.PARAMS)
    time.sleep(0.15)
    assert sweep(database, CountingBroker(waiting=3), settled(settings)) == 0


def test_a_shard_whose_worker_died_is_sent_again_and_counts_a_failure(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    steps.held(database, job, 1)
    steps.let_run_out(database, job)
    broker = CountingBroker()
    sweep(database, broker, settings)
    assert broker.sent == [(job, 1)]
    with database.read() as session:
        assert session.get(Shard, (job, 1)).failures == 1


def test_a_shard_that_kills_its_workers_fails_its_job(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    for _ in range(settings.max_attempts):
        steps.held(database, job, 1, "victim")
        steps.let_run_out(database, job)
        sweep(database, CountingBroker(), settings)
    failed = steps.read_job(database, job)
    assert failed.state is JobState.FAILED
    assert "victim did not renew its lease" in (failed.error or "")


def test_the_rest_of_a_long_job_follows_as_messages_are_taken(database: Database, settings: Settings) -> None:
    long = steps.JobParams(**{**vars(steps.PARAMS), "pages": 4 * (ANNOUNCE + 50)})
    job = steps.submit(database, CountingBroker(), settings, INFO, long)[0]
    assert sweep(database, CountingBroker(waiting=ANNOUNCE), settings) == 0
    broker = CountingBroker(waiting=ANNOUNCE - 20)
    assert sweep(database, broker, settings) == 20
    assert broker.sent == [(job.id, ANNOUNCE + index) for index in range(20)]


def test_shards_of_ended_jobs_are_not_sent(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    steps.fails(database, steps.held(database, job, 0), permanent=True)
    with database.write() as session:
        session.execute(update(Shard).values(state=ShardState.QUEUED, enqueued_at=None))  # as if a bug had left it
    assert sweep(database, CountingBroker(), settings) == 0


def test_the_thread_goes_on_when_the_broker_was_away(database: Database, settings: Settings) -> None:
    job = steps.submit(database, CountingBroker(away=True), settings, INFO, steps.PARAMS)[0]
    broker = CountingBroker(away=True)
    thread = SweeperThread(database, broker, settled(settings))
    thread.start()
    time.sleep(0.3)
    broker.away = False
    deadline = time.monotonic() + 5
    while not broker.sent and time.monotonic() < deadline:
        time.sleep(0.05)
    thread.stop()
    assert set(broker.sent) == {(job.id, number) for number in range(3)}


def test_of_many_sweepers_one_has_the_turn(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: take_turn(database, 60), range(16))) == 1
    with database.write() as session:
        session.execute(update(Sweep).values(next_at=utc_now(session) - timedelta(seconds=1)))
    assert take_turn(database, 60)
    assert not take_turn(database, 60)


def test_a_clock_that_went_back_keeps_nobody_from_sweeping(database: Database) -> None:
    with database.write() as session:
        session.execute(update(Sweep).values(next_at=utc_now(session) + timedelta(hours=1)))
    assert take_turn(database, 5)


def test_a_full_queue_keeps_no_other_queue_from_its_messages(database: Database, settings: Settings) -> None:
    steps.make_job(database)
    with database.write() as session:
        session.execute(update(Shard).values(enqueued_at=None))
        other, _, _ = add_job(session, replace(INFO, name="other"), steps.PARAMS, shard_pages=4, announce=0)

    class Full(CountingBroker):
        def waiting(self, queues: Iterable[JobQueue]) -> dict[JobQueue, int]:
            return {queue: ANNOUNCE if queue == QUEUE else 0 for queue in queues}

    broker = Full()
    assert sweep(database, broker, settings) == steps.SHARDS
    assert {job for job, _ in broker.sent} == {other}
    assert broker.queues == {JobQueue("other", INFO.revision).name}


def test_a_job_that_has_begun_is_sent_to_workers_of_its_device(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    with database.write() as session:
        assert acquire(session, job, 0, owner="a", seconds=60, device="cuda")
        session.execute(update(Shard).values(enqueued_at=None))
    broker = CountingBroker()
    assert sweep(database, broker, settings) == steps.SHARDS - 1
    assert broker.queues == {QUEUE._replace(device="cuda").name}


def test_a_clock_that_leaps_ahead_ends_no_lease_that_is_renewed(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = steps.make_job(database)
    found = steps.held(database, job, 0)
    leap = timedelta(0)
    for module in (leases, sweeper):
        monkeypatch.setattr(module, "utc_now", lambda _: datetime.now(UTC) + leap)
    thread = SweeperThread(database, CountingBroker(), settings.model_copy(update={"sweep_seconds": 1e-6}))
    thread.sweep()
    leap = timedelta(hours=1)
    thread.sweep()
    with database.write() as session:
        assert leases.renew(session, found, seconds=60, pages_done=1), "its worker lives"
    thread.sweep()
    assert thread.leases_taken_back == 0
    steps.let_run_out(database, job)
    thread.sweep()
    assert thread.leases_taken_back == 1
