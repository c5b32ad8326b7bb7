"""One shard, run without Celery: what becomes of it, and of its job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from headmap.context import request_id
from headmap.errors import (
    DatasetUnavailable,
    DeviceFailed,
    DeviceNotFound,
    HeadmapError,
    InvalidParameter,
    ModelNotFound,
    ModelNotUsable,
    OutOfMemory,
    UnsupportedModel,
)
from headmap.jobs.runner import run_shard
from headmap.jobs.work import OnPage, ShardAborted, ShardResult, ShardScorer, ShardSpec
from headmap.registry.jobs import cancel_job
from headmap.registry.session import Database
from headmap.registry.tables import JobState, ShardState
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import FakeScorer


def raising(error: Exception) -> Callable[[], ShardScorer]:
    def scorer(spec: ShardSpec, on_page: OnPage) -> ShardResult:
        raise error

    return lambda: scorer


class Waiting:
    """Works until it is aborted, and says what it saw."""

    def __init__(self) -> None:
        self.started, self.aborted = threading.Event(), threading.Event()

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        try:
            for _ in range(200):
                on_page(2)
                self.started.set()
                time.sleep(0.02)
        except ShardAborted:
            self.aborted.set()
            raise
        raise TimeoutError("nobody aborted it")


def test_shards_run_to_a_map(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    outcomes = [run_shard(database, settings, FakeScorer, job, number, owner="w") for number in (1, 0, 2, 0)]
    assert outcomes == ["done", "done", "done", "skipped"]
    assert steps.read_job(database, job).state is JobState.SUCCEEDED


@pytest.mark.parametrize(("job", "number"), [("0" * 32, 0), (None, 99)])
def test_a_shard_that_does_not_exist_is_skipped(
    database: Database, settings: Settings, job: str | None, number: int
) -> None:
    job = job or steps.make_job(database)
    assert run_shard(database, settings, FakeScorer, job, number, owner="w") == "skipped"


@pytest.mark.parametrize("error", [UnsupportedModel("model: of no family"), InvalidParameter("rule: unknown")])
def test_a_clients_error_fails_the_job_with_its_reason(
    database: Database, settings: Settings, error: HeadmapError
) -> None:
    job = steps.make_job(database)
    assert run_shard(database, settings, raising(error), job, 0, owner="w") == "failed"
    failed = steps.read_job(database, job)
    assert failed.state is JobState.FAILED
    assert failed.error == f"pages 0 to 3 failed: {error.detail}"


@pytest.mark.parametrize("error", [RuntimeError("device lost\x00"), MemoryError()])
def test_other_errors_are_tried_again_a_bounded_number_of_times(
    database: Database, settings: Settings, error: Exception
) -> None:
    job = steps.make_job(database)
    outcomes = [run_shard(database, settings, raising(error), job, 0, owner="w") for _ in range(settings.max_attempts)]
    assert outcomes == ["retry"] * (settings.max_attempts - 1) + ["failed"]
    failed = steps.read_job(database, job)
    assert failed.state is JobState.FAILED
    assert f"after {settings.max_attempts} attempts" in (failed.error or "")
    assert str(error).strip("\x00") in (failed.error or "")
    assert "\x00" not in (failed.error or "")


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("model: not here"),
        ModelNotUsable("model: a file is missing"),
        DatasetUnavailable("dataset: not in the cache"),
        OutOfMemory("the device is small"),
        DeviceNotFound("cuda:7"),
        ImportError("no torch here"),
    ],
)
def test_what_this_host_cannot_do_is_left_to_another_and_counts_as_no_failure(
    database: Database, settings: Settings, error: Exception
) -> None:
    job = steps.make_job(database)
    told: list[str] = []
    for _ in range(settings.max_attempts + 1):
        with pytest.raises(HeadmapError, match=str(error)):
            run_shard(
                database, settings, raising(error), job, 0,
                owner="host:0:x/1", device="cuda", observe=lambda outcome, *_: told.append(outcome),
            )  # fmt: skip
    assert set(told) == {"handed_back"}
    waiting = steps.read_job(database, job)
    assert waiting.state is JobState.RUNNING
    assert str(error) in (waiting.waits_for or "")
    assert waiting.device is None, "nothing was done on it"
    for number in range(steps.SHARDS):
        assert run_shard(database, settings, FakeScorer, job, number, owner="other", device="cpu") == "done"
    assert steps.read_job(database, job).state is JobState.SUCCEEDED


def test_a_job_stays_on_the_kind_of_device_that_it_began_on(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    assert run_shard(database, settings, FakeScorer, job, 1, owner="a", device="cuda") == "done"
    assert run_shard(database, settings, FakeScorer, job, 0, owner="b", device="cpu") == "skipped"
    with pytest.raises(OutOfMemory):
        run_shard(database, settings, raising(OutOfMemory("small")), job, 0, owner="c", device="cuda")
    assert steps.read_job(database, job).device == "cuda"


def test_a_broken_device_gives_the_shard_back_and_is_told_to_the_process(
    database: Database, settings: Settings
) -> None:
    job = steps.make_job(database)
    seen: list[tuple[str, int]] = []
    with pytest.raises(DeviceFailed):
        run_shard(
            database, settings, raising(DeviceFailed("the device failed")), job, 0,
            owner="w", observe=lambda outcome, pages, _: seen.append((outcome, pages)),
        )  # fmt: skip
    assert [outcome for outcome, _ in seen] == ["retry"]
    assert run_shard(database, settings, FakeScorer, job, 0, owner="another") == "done"


def test_a_fault_that_passes_leaves_the_map_as_it_is(database: Database, settings: Settings) -> None:
    calm = steps.make_job(database)
    for number in range(steps.SHARDS):
        run_shard(database, settings, FakeScorer, calm, number, owner="w")
    job = steps.make_job(database)
    run_shard(database, settings, raising(RuntimeError("once")), job, 1, owner="w")
    for number in range(steps.SHARDS):
        assert run_shard(database, settings, FakeScorer, job, number, owner="w") == "done"
    assert steps.checksum(database, job) == steps.checksum(database, calm)
    assert steps.read_job(database, job).error is None


def test_a_scorer_that_cannot_be_made_fails_the_attempt_not_the_worker(database: Database, settings: Settings) -> None:
    def broken() -> ShardScorer:
        raise RuntimeError("no memory map")

    job = steps.make_job(database)
    assert run_shard(database, settings, broken, job, 0, owner="w") == "retry"


def test_progress_shows_and_the_lease_is_renewed_while_the_work_goes_on(database: Database, settings: Settings) -> None:
    quick = settings.model_copy(update={"lease_seconds": 0.6})
    job = steps.make_job(database)
    scorer = Waiting()
    thread = threading.Thread(target=run_shard, args=(database, quick, lambda: scorer, job, 0), kwargs={"owner": "w"})
    thread.start()
    scorer.started.wait(5)
    time.sleep(1.2)  # two leases long
    assert steps.lease(database, job, 0, "thief") is None
    assert steps.read_job(database, job).done == 2
    with database.write() as session:
        cancel_job(session, job)
    assert scorer.aborted.wait(3)
    thread.join()


def test_cancel_aborts_the_work_and_nothing_of_it_stays(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    scorer = Waiting()
    outcome: list[str] = []
    run = threading.Thread(
        target=lambda: outcome.append(run_shard(database, settings, lambda: scorer, job, 0, owner="w"))
    )
    run.start()
    scorer.started.wait(5)
    with database.write() as session:
        cancel_job(session, job)
    run.join(5)
    assert outcome == ["lost"]
    assert steps.shard_state(database, job, 0) == ShardState.CANCELLED
    assert steps.read_job(database, job).state is JobState.CANCELLED


def test_a_shard_that_takes_too_long_is_aborted_and_its_attempt_failed(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    scorer = Waiting()
    hurried = settings.model_copy(update={"shard_time_limit": 1, "lease_seconds": 0.3})
    assert run_shard(database, hurried, lambda: scorer, job, 0, owner="w") == "retry"
    assert scorer.aborted.is_set()
    assert steps.shard_state(database, job, 0) == ShardState.QUEUED
    assert steps.failure(database, job, 0) == "TimeoutError: not done within 0.9 s"


def test_attempts_are_told_with_their_pages_and_carry_the_requests_id(database: Database, settings: Settings) -> None:
    told: list[tuple[str, int]] = []
    seen: list[str | None] = []

    def scorer(spec: ShardSpec, on_page: OnPage) -> ShardResult:
        seen.append(request_id.get())
        return FakeScorer()(spec, on_page)

    def observe(outcome: str, pages: int, seconds: float) -> None:
        told.append((outcome, pages))

    job = steps.make_job(database, request_id="r-1")
    for number in (2, 0, 0):
        run_shard(database, settings, lambda: scorer, job, number, owner="w", observe=observe)
    run_shard(database, settings, raising(RuntimeError("broken")), job, 1, owner="w", observe=observe)
    assert told == [("done", 2), ("done", 4), ("retry", 4)]
    assert seen == ["r-1", "r-1"]
    assert request_id.get() is None
