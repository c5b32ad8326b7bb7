"""Which queues a worker takes from, and what a process does with a job that its host cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from headmap.errors import DatasetUnavailable, HeadmapError, ModelNotUsable
from headmap.jobs import subscriptions
from headmap.jobs.queues import PREFIX
from headmap.jobs.subscriptions import Subscriptions
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.jobs.worker_runtime import WorkerRuntime
from headmap.registry.jobs import get_job
from headmap.registry.session import Database
from headmap.registry.tables import JobState
from headmap.registry.workers import report_models
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO, QUEUE, CountingBroker, FakeScorer

MODEL = (INFO.name, INFO.revision)
BOTH = {QUEUE.name, QUEUE._replace(device="cpu").name}


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(subscriptions, "time", found)
    return found


@pytest.fixture
def subscribed(settings: Settings, clock: Clock) -> Iterator[Subscriptions]:
    found = Subscriptions(settings.model_copy(update={"device": "cpu"}), lambda _: {MODEL, ("other", "r")})
    yield found
    found.close()


def test_a_worker_takes_from_the_queues_of_the_models_it_has(subscribed: Subscriptions) -> None:
    assert {PREFIX} | BOTH < subscribed.queues()
    assert len(subscribed.queues()) == 5


def test_a_model_that_does_not_work_here_is_paused_for_longer_and_longer(
    subscribed: Subscriptions, clock: Clock
) -> None:
    waits = []
    for _ in range(4):
        subscribed.pause(*MODEL)
        subscribed.pause(*MODEL)  # another child, or a second message
        subscribed.wait(5)
        began = clock.now
        assert not BOTH & subscribed.queues()
        assert subscribed.models() == {("other", "r")}
        while not subscribed.queues() >= BOTH:
            clock.now += 1
        waits.append(clock.now - began)
    assert waits == [60, 120, 240, 480]
    clock.now += 3600
    subscribed.pause(*MODEL)
    subscribed.wait(5)
    clock.now += 60
    assert subscribed.queues() >= BOTH, "that was long ago"


class Host:
    """A worker process whose host raises `error` for the shards of some jobs."""

    def __init__(self, settings: Settings, error: HeadmapError, jobs: set[str]) -> None:
        self.scored: list[str] = []
        self._error, self._jobs = error, jobs
        self.runtime = WorkerRuntime(
            settings.model_copy(update={"device": "cpu"}), lambda _: self, lambda *_: None, CountingBroker(),
            lambda _: {MODEL},
        )  # fmt: skip

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        if spec.job_id in self._jobs:
            raise self._error
        self.scored.append(spec.job_id)
        return FakeScorer()(spec, on_page)

    def paused(self) -> bool:
        self.runtime.subscriptions.wait(0)
        return not self.runtime.subscriptions.models()


def test_a_job_whose_dataset_is_missing_here_leaves_the_models_other_jobs_to_this_host(
    database: Database, settings: Settings
) -> None:
    job = steps.make_job(database)
    other = steps.make_job(database, params=replace(steps.PARAMS, seed=1))
    host = Host(settings, DatasetUnavailable("dataset: no network"), {job})
    assert host.runtime.score_shard(job, 0) == "handed_back"
    assert not host.paused()
    outcomes = [host.runtime.score_shard(job, number) for number in range(steps.SHARDS)]
    assert outcomes == ["done"] * steps.SHARDS, "the messages stand for shards of the other job"
    assert set(host.scored) == {other}
    assert steps.read_job(database, other).state is JobState.SUCCEEDED
    assert host.runtime.score_shard(job, 1) == "declined"
    assert host.paused(), "there is nothing that it could do"
    assert Host(settings, DatasetUnavailable("no"), set()).runtime.score_shard(job, 0) == "done"


def test_a_model_that_is_missing_here_is_left_to_other_hosts_at_once(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    host = Host(settings, ModelNotUsable("model: gone"), {job})
    assert host.runtime.score_shard(job, 0) == "handed_back"
    assert host.paused()
    assert steps.read_job(database, job).attempts == 1


def test_a_job_says_that_no_worker_takes_its_model(database: Database) -> None:
    job = steps.make_job(database)
    assert "no worker takes model 'fake/model' at revision r1" in (steps.read_job(database, job).waits_for or "")
    with database.write() as session:
        report_models(session, "a", "cpu", {MODEL})
        assert get_job(session, job).waits_for is None
        report_models(session, "a", "cpu", set())
        report_models(session, "b", "cpu", {(INFO.name, "another revision")})
        assert get_job(session, job).waits_for is not None
