"""The short form of `make chaos`: each fault once, while jobs run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headmap.settings import DEMO_MODEL, Settings
from tests.integration.chaos.cluster import Cluster
from tests.integration.chaos.faults import FAULTS
from tests.integration.chaos.run import Plan, run
from tests.integration.processes import Worker
from tests.integration.servers import Postgres, Redis

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(settings: Settings, postgres: Postgres, redis: Redis) -> Iterator[Cluster]:
    redis.flush()
    started = Cluster(
        settings.model_copy(update={"broker_url": redis.url, "sweep_seconds": 0.5}),
        postgres,
        redis,
        workers=3,
        start_worker=lambda ours: Worker(ours, pool="prefork", model=DEMO_MODEL),
    )
    yield started
    started.end()


def test_each_fault_once_loses_doubles_and_changes_nothing(cluster: Cluster) -> None:
    report = run(cluster, Plan(len(FAULTS), pages=24, seeds=2, together=2, between=(0.0, 0.3)), print)
    assert report.wrong == []
    assert set(report.faults.values()) == {1}
    assert report.jobs_succeeded == report.jobs == report.maps
    assert report.most_attempts_of_a_shard > 1, "no fault met a shard at work"
