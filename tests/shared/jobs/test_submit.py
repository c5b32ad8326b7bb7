"""Starting jobs: equal requests, keys, and brokers that do not answer."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from headmap.errors import IdempotencyConflict
from headmap.jobs.queues import JobQueue
from headmap.jobs.submit import ANNOUNCE
from headmap.registry.jobs import JobRecord, cancel_job
from headmap.registry.session import Database
from headmap.registry.tables import JobState
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO, CountingBroker
from tests.shared.jobs.steps import PARAMS


class Start:
    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings, self.broker = database, settings, CountingBroker()

    def __call__(
        self, *, pages: int = 10, seed: int = 0, force: bool = False, key: str | None = None
    ) -> tuple[JobRecord, bool]:
        params = replace(PARAMS, pages=pages, seed=seed)
        return steps.submit(self.database, self.broker, self.settings, INFO, params, force=force, idempotency_key=key)


@pytest.fixture
def start(database: Database, settings: Settings) -> Start:
    return Start(database, settings)


def test_a_new_job_has_its_shards_and_its_messages(start: Start) -> None:
    job, created = start()
    assert created
    assert (job.state, job.done, job.total, job.attempts) == (JobState.QUEUED, 0, 10, 0)
    assert start.broker.sent == [(job.id, 0), (job.id, 1), (job.id, 2)]


def test_messages_leave_after_the_commit(start: Start) -> None:
    class Looking(CountingBroker):
        def enqueue(self, queue: JobQueue, shards: Iterable[tuple[str, int]]) -> None:
            found = list(shards)
            assert steps.read_job(start.database, found[0][0]).state is JobState.QUEUED
            self.sent += found

    start.broker = Looking()
    start()
    assert start.broker.sent


def test_an_equal_request_gets_the_same_job_and_no_messages(start: Start) -> None:
    job, _ = start()
    start.broker.sent.clear()
    assert start() == (job, False)
    assert start.broker.sent == []
    assert start(seed=1)[0].id != job.id


@pytest.mark.parametrize("state", ["succeeded", "cancelled", "failed"])
def test_only_a_job_that_failed_or_was_cancelled_is_replaced(start: Start, database: Database, state: str) -> None:
    job, _ = start()
    if state == "cancelled":
        with database.write() as session:
            cancel_job(session, job.id)
    elif state == "failed":
        steps.fails(database, steps.held(database, job.id, 0), permanent=True)
    else:
        for number in range(steps.SHARDS):
            steps.finish(database, steps.held(database, job.id, number))
    again, created = start()
    assert created is (state != "succeeded")
    assert (again.id == job.id) is (state == "succeeded")


def test_force_starts_anew_and_stands_for_later_requests(start: Start) -> None:
    first, _ = start()
    forced, created = start(force=True)
    assert created
    assert forced.id != first.id
    assert start()[0].id == forced.id


def test_equal_requests_at_one_moment_get_one_job(start: Start) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: start(), range(16)))
    assert len({job.id for job, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


def test_a_key_brings_its_job_back_even_when_that_was_cancelled(start: Start, database: Database) -> None:
    job, _ = start(key="k")
    with database.write() as session:
        cancel_job(session, job.id)
    again, created = start(key="k")
    assert (again.id, created) == (job.id, False)
    with pytest.raises(IdempotencyConflict, match="'k'"):
        start(seed=5, key="k")


def test_forced_requests_with_one_key_at_one_moment_get_one_job(start: Start) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: start(force=True, key="k"), range(8)))
    assert len({job.id for job, _ in answers}) == 1


def test_a_broker_that_is_away_fails_nothing(start: Start) -> None:
    start.broker.away = True
    assert start()[1]


def test_a_long_job_does_not_flood_the_broker(start: Start) -> None:
    start(pages=4 * ANNOUNCE + 40)
    assert len(start.broker.sent) == ANNOUNCE
