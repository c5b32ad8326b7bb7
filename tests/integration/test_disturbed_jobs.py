"""Real workers on real servers, and what production does to them: every job still ends with the calm run's map."""

from __future__ import annotations

import base64
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from headmap.evaluation.curve import Curve, make_curve
from headmap.evaluation.metrics import get_metric
from headmap.jobs.sweeper import sweep
from headmap.registry.jobs import cancel_job
from headmap.registry.tables import JobState, ShardState
from tests.integration.cluster import PARAMS, Cluster
from tests.integration.processes import wait_for
from tests.integration.servers import Postgres, Redis
from tests.shared.jobs import steps
from tests.shared.jobs.fake_answers import fake_answer
from tests.shared.jobs.fakes import QUEUE, CountingBroker
from tests.shared.jobs.test_evaluations import ASKED

EVALUATION_PARAMS = replace(PARAMS, rule=None, evaluation=ASKED)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_a_killed_worker_loses_nothing(either: Cluster) -> None:
    victim = either.worker(pause=0.3)
    job = either.submit()
    either.wait_until_running(job, pages=2)
    victim.kill()
    either.worker()
    either.assert_succeeded(job)
    assert either.job(job).attempts == 2


def test_a_worker_killed_in_an_evaluation_leaves_the_curve_of_a_calm_run(either: Cluster) -> None:
    victim = either.worker(pause=0.3)
    job = either.submit(EVALUATION_PARAMS)
    either.wait_until_running(job, pages=2)
    victim.kill()
    either.worker()
    ended = either.wait_until_ended(job)
    assert (ended.state, ended.error, ended.attempts) == (JobState.SUCCEEDED, None, 2)
    rows = [fake_answer(number, case) for number in range(24) for case in ASKED.cases]
    calm = make_curve(rows, get_metric("exact"), ASKED.margin)
    assert ended.result is not None
    found = Curve.from_json(ended.result)
    timeless = [replace(point, token_ms=calm.points[0].token_ms) for point in found.points]
    assert (timeless, found.recommended) == (list(calm.points), calm.recommended)


def test_a_worker_whose_device_broke_gives_its_shard_back_and_ends(embedded: Cluster) -> None:
    """Rather than to fail every shard of every job: whoever supervises it starts another."""
    broken = embedded.worker(broken_device=True)
    job = embedded.submit()
    wait_for(lambda: broken.code is not None, "it ends")
    assert broken.code == 1
    embedded.worker()
    embedded.assert_succeeded(job)
    assert embedded.job(job).attempts == 2


def test_a_worker_that_is_told_to_stop_hands_its_shard_back(either: Cluster) -> None:
    going = either.worker(pause=0.5)
    job = either.submit()
    either.wait_until_running(job)
    assert going.terminate() == 0
    states = [steps.shard_state(either.database, job, number) for number in range(6)]
    assert ShardState.RUNNING not in states
    either.worker()
    either.assert_succeeded(job)


def test_cancel_reaches_a_running_worker(either: Cluster) -> None:
    worker = either.worker(pause=0.4)
    job = either.submit()
    either.wait_until_running(job)
    with either.database.write() as session:
        cancel_job(session, job)
    wait_for(lambda: "shard aborted" in worker.log.read_text(), "the worker notices", seconds=6)
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
    assert steps.maps_of(cluster.database, job) == 1


def test_a_shard_that_kills_whoever_scores_it_fails_its_job_and_no_other(cluster: Cluster) -> None:
    cluster.settings = cluster.settings.model_copy(update={"max_attempts": 2, "lease_seconds": 1})
    for _ in range(2):
        cluster.worker(pool="prefork", poison=13)
    poisoned = cluster.submit(replace(PARAMS, seed=13, pages=4))
    healthy = [cluster.submit() for _ in range(2)]
    for job in healthy:
        cluster.assert_succeeded(job)
    ended = cluster.wait_until_ended(poisoned)
    assert (ended.state, ended.attempts, ended.map_id) == (JobState.FAILED, 2, None)
    assert "pages 0 to 3 failed after 2 attempts" in (ended.error or "")


def test_several_sweepers_announce_a_shard_once(cluster: Cluster) -> None:
    # A shard that nobody took is announced again after a wait, which here outlasts the test on any machine.
    settings = cluster.settings.model_copy(update={"sweep_seconds": 600.0})
    broker = CountingBroker()
    job = steps.make_job(cluster.database, params=PARAMS)
    steps.held(cluster.database, job, 0)
    steps.let_run_out(cluster.database, job)

    def sweep_together() -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: sweep(cluster.database, broker, settings), range(16)))

    sweep_together()
    time.sleep(0.3)  # the back-off
    sweep_together()
    assert broker.sent.count((job, 0)) == 1


def test_a_job_that_reads_on_makes_the_calm_map_although_a_worker_is_killed(cluster: Cluster) -> None:
    params = replace(PARAMS, pages=8, min_pages=8, max_pages=40, stable_overlap=1.0, seed=0)
    calm = steps.make_job(cluster.database, params=params)
    rounds = steps.read_on(cluster.database, calm)
    victim = cluster.worker(pause=0.2)
    job = cluster.submit(params)
    cluster.wait_until_running(job, pages=rounds[0] + 2)  # in the second round
    victim.kill()
    cluster.worker()
    ended = cluster.wait_until_ended(job)
    assert (ended.state, ended.total) == (JobState.SUCCEEDED, rounds[-1])
    assert steps.maps_of(cluster.database, job) == 1
    assert steps.checksum(cluster.database, job) == steps.checksum(cluster.database, calm)


def test_broken_files_in_the_queue_stop_no_worker(embedded: Cluster) -> None:
    queue = embedded.settings.data_dir / "broker" / "queue"
    for number, data in enumerate((b"", b"junk", b"[]", b"{}")):
        (queue / f"{number}.{QUEUE.name}.msg").write_bytes(data)
    unknown = {"headers": {"task": "unknown", "id": "1"}, "body": base64.b64encode(b'[["job", 1]]').decode()}
    (queue / f"5.{QUEUE.name}.msg").write_text(json.dumps(unknown))
    worker = embedded.worker()
    embedded.assert_succeeded(embedded.submit())
    assert worker.code is None
