"""Real workers and queues by model: hosts that lack a model, two models' jobs at once, and one sweeper of many."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest

from headmap.registry.tables import Sweep
from tests.integration.cluster import Cluster
from tests.integration.processes import Worker, wait_for
from tests.shared.jobs.fakes import INFO

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

OTHER = "fake/other"


def logged(worker: Worker, message: str) -> int:
    return sum(entry.get("message") == message for entry in worker.entries())


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_host_without_the_model_ends_no_job(cluster: Cluster, pool: str) -> None:
    """The host without it is the fastest: it would fail every shard before the other has done one."""
    lacking = cluster.worker(pool=pool, pause=0.0, lacks=INFO.name)
    job = cluster.submit()
    wait_for(lambda: "takes no shards of fake/model" in lacking.log.read_text(), "it stops taking the model's shards")
    cluster.worker(pause=0.02)
    cluster.assert_succeeded(job)
    assert logged(lacking, "shard done") == 0
    other = cluster.submit(model=OTHER)
    cluster.assert_succeeded(other)


def test_a_host_without_the_model_ends_no_job_on_the_embedded_broker(embedded: Cluster) -> None:
    lacking = embedded.worker(lacks=INFO.name)
    job = embedded.submit()
    wait_for(lambda: embedded.job(job).waits_for is not None and embedded.job(job).attempts > 0, "the job says why")
    assert "cannot be loaded" in (embedded.job(job).waits_for or "")
    embedded.assert_succeeded(embedded.submit(model=OTHER))
    assert logged(lacking, "shard done") == 6, "of the other job"
    embedded.worker()
    embedded.assert_succeeded(job)


def test_two_models_jobs_share_a_worker_without_a_load_for_each_shard(cluster: Cluster) -> None:
    cluster.settings = cluster.settings.model_copy(update={"model_turn_seconds": 1.0})
    jobs = [cluster.submit(model=model) for _ in range(3) for model in (INFO.name, OTHER)]
    worker = cluster.worker(pause=0.02)
    for job in jobs:
        cluster.assert_succeeded(job)
    shards, loads = logged(worker, "shard done"), logged(worker, "model loaded")
    assert shards >= 36
    assert 2 <= loads <= shards / 4


def test_a_models_endless_work_keeps_no_other_model_waiting(embedded: Cluster) -> None:
    embedded.settings = embedded.settings.model_copy(update={"model_turn_seconds": 0.5})
    endless = [embedded.submit() for _ in range(6)]
    embedded.worker(pause=0.1)
    embedded.wait_until_running(endless[0])
    embedded.assert_succeeded(embedded.submit(model=OTHER))
    assert not embedded.job(endless[-1]).state.ended


def test_one_of_many_workers_sweeps_at_a_time(cluster: Cluster) -> None:
    workers = [cluster.worker() for _ in range(3)]
    turns: set[datetime] = set()

    def sweeps() -> int:
        with cluster.database.read() as session:
            turns.add(session.get_one(Sweep, 1).next_at)
        return len(turns)

    wait_for(lambda: all("ready" in worker.log.read_text() for worker in workers), "all work")
    wait_for(lambda: sweeps() > 4, "they sweep")
    moments = sorted(turns)
    gaps = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert min(gaps) >= cluster.settings.sweep_seconds
