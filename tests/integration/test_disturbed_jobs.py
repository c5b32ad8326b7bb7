"""Real workers on real servers, and what production does to them: every job still ends with the calm run's map."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headmap.errors import RegistryUnavailable
from headmap.jobs.broker import Broker
from headmap.jobs.celery_app import CeleryBroker, create_celery
from headmap.jobs.submit import submit
from headmap.jobs.sweeper import sweep
from headmap.registry.jobs import JobParams, JobRecord, cancel_job
from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.registry.tables import JobState, ShardState
from headmap.settings import Settings
from tests.integration.processes import Worker, wait_for
from tests.integration.servers import Postgres, Redis
from tests.shared.jobs import contract
from tests.shared.jobs.fakes import INFO, CountingBroker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PARAMS = JobParams(dataset="synthetic", pages=24, rule="aligned", seed=7, max_new_tokens=64)


class Cluster:
    """A registry, a broker and workers that are ended with the test."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        migrate(settings)
        self.database: Database = open_database(settings)
        self.broker: Broker = CeleryBroker(create_celery(settings))
        self._workers: list[Worker] = []

    def worker(self, *, pool: str = "solo", pause: float = 0.05) -> Worker:
        self._workers.append(Worker(self.settings, pool=pool, pause=pause))
        return self._workers[-1]

    def submit(self, params: JobParams = PARAMS) -> str:
        return submit(self.database, self.broker, self.settings, INFO, params, force=True)[0].id

    def job(self, job_id: str) -> JobRecord:
        return contract.read_job(self.database, job_id)

    def wait_until_running(self, job_id: str, *, pages: int = 1) -> None:
        wait_for(lambda: self.job(job_id).done >= pages, f"{pages} pages done")

    def wait_until_ended(self, job_id: str) -> JobRecord:
        def ended() -> bool:
            try:
                return self.job(job_id).state.ended
            except RegistryUnavailable:
                return False

        wait_for(ended, "the job's end")
        return self.job(job_id)

    def assert_succeeded(self, job_id: str) -> None:
        """With one map, every page counted once, and the scores of a run that nothing disturbed."""
        job = self.wait_until_ended(job_id)
        assert (job.state, job.error, job.done) == (JobState.SUCCEEDED, None, PARAMS.pages)
        assert contract.maps_of(self.database, job_id) == 1
        assert contract.checksum(self.database, job_id) == calm_checksum(self.database)

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
        self.database.close()


def calm_checksum(database: Database) -> str:
    """Of the same job done in order, in this process, by nobody's worker."""
    job = contract.make_job(database, params=PARAMS)
    for number in range(PARAMS.pages // 4):
        contract.finish(database, contract.held(database, job, number))
    return contract.checksum(database, job)


@pytest.fixture
def cluster(settings: Settings, redis: Redis) -> Iterator[Cluster]:
    redis.flush()
    started = Cluster(settings.model_copy(update={"broker_url": redis.url, "sweep_seconds": 0.5, "max_attempts": 20}))
    yield started
    started.end()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Cluster]:
    """SQLite and the folder broker: the same tasks without a server."""
    values = {"shard_pages": 4, "retry_seconds": 0.2, "lease_seconds": 3, "sweep_seconds": 0.5, "max_attempts": 20}
    started = Cluster(Settings(data_dir=tmp_path / "embedded", **values))
    yield started
    started.end()


@pytest.fixture(params=["cluster", "embedded"])
def either(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    return found


def test_a_killed_worker_loses_nothing(either: Cluster) -> None:
    victim = either.worker(pause=0.3)
    job = either.submit()
    either.wait_until_running(job, pages=2)
    victim.kill()
    either.worker()
    either.assert_succeeded(job)
    assert either.job(job).attempts == 2


def test_a_worker_that_is_told_to_stop_hands_its_shard_back(either: Cluster) -> None:
    going = either.worker(pause=0.5)
    job = either.submit()
    either.wait_until_running(job)
    assert going.terminate() == 0
    states = [contract.shard_state(either.database, job, number) for number in range(6)]
    assert ShardState.RUNNING not in states
    either.worker()
    either.assert_succeeded(job)


def test_cancel_reaches_a_running_worker(either: Cluster) -> None:
    worker = either.worker(pause=0.4)
    job = either.submit()
    either.wait_until_running(job)
    with either.database.write() as session:
        cancel_job(session, job)
    wait_for(lambda: "shard lost" in worker.log.read_text(), "the worker notices", seconds=6)
    assert either.job(job).state is JobState.CANCELLED
    assert either.job(job).map_id is None


def test_prefork_children_are_replaced_and_spread_the_work(cluster: Cluster) -> None:
    first, second = cluster.worker(pool="prefork", pause=0.2), cluster.worker(pool="prefork", pause=0.2)
    job = cluster.submit()
    cluster.wait_until_running(job, pages=2)
    first.kill()
    cluster.assert_succeeded(job)
    assert "shard done" in second.log.read_text()


def test_a_flushed_and_restarted_broker_is_only_a_delay(cluster: Cluster, redis: Redis) -> None:
    cluster.worker(pause=0.15)
    job = cluster.submit()
    cluster.wait_until_running(job)
    redis.flush()
    cluster.wait_until_running(job, pages=10)
    redis.restart()
    cluster.assert_succeeded(job)


def test_a_job_submitted_while_the_broker_is_away_runs_when_it_is_back(cluster: Cluster, redis: Redis) -> None:
    redis.stop(signal.SIGTERM)
    try:
        job = cluster.submit()
    finally:
        redis.start()
    assert cluster.job(job).state is JobState.QUEUED
    cluster.worker()
    cluster.assert_succeeded(job)


def test_a_restarted_database_is_only_a_delay(cluster: Cluster, postgres: Postgres) -> None:
    cluster.worker(pause=0.15)
    job = cluster.submit()
    cluster.wait_until_running(job)
    postgres.restart()
    cluster.assert_succeeded(job)


def test_a_worker_stopped_for_longer_than_its_lease_is_refused_when_it_comes_back(cluster: Cluster) -> None:
    sleeper = cluster.worker(pause=0.3)
    job = cluster.submit()
    cluster.wait_until_running(job, pages=2)
    sleeper.signal(signal.SIGSTOP)
    cluster.worker()
    cluster.assert_succeeded(job)
    sleeper.signal(signal.SIGCONT)
    after = cluster.submit()
    cluster.assert_succeeded(after)
    assert contract.maps_of(cluster.database, job) == 1


def test_several_sweepers_announce_a_shard_once(cluster: Cluster) -> None:
    broker = CountingBroker()
    job = contract.make_job(cluster.database, params=PARAMS)
    contract.held(cluster.database, job, 0)
    contract.let_run_out(cluster.database, job)

    def sweep_together() -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: sweep(cluster.database, broker, cluster.settings), range(16)))

    sweep_together()
    time.sleep(0.3)  # the back-off
    sweep_together()
    assert broker.sent.count((job, 0)) == 1
