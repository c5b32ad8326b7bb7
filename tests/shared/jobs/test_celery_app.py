"""What a worker process does around a shard."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from headmap.jobs.celery_app import create_celery
from headmap.jobs.celery_broker import CeleryBroker
from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.registry.tables import JobState
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import QUEUE, FakeScorer
from tests.shared.jobs.test_filesystem_broker import take_all


@pytest.fixture
def app(settings: Settings) -> Celery:
    return create_celery(settings.model_copy(update={"device": "cpu"}), lambda _: FakeScorer())


def test_a_further_round_is_announced_with_the_result_that_begins_it(app: Celery, database: Database) -> None:
    job = steps.make_job(database, params=steps.AUTO)
    assert app.headmap_runtime.score_shard(job, 0) == "done"
    assert take_all(app) == []
    assert app.headmap_runtime.score_shard(job, 1) == "done"
    assert take_all(app, QUEUE._replace(device="cpu").name) == [(job, 2)]
    assert steps.read_job(database, job).total == 10


def test_the_data_directory_may_have_any_name(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "50%20 of?[a-z]*#é;x{y}&z='1'", shard_pages=4)
    migrate(settings)
    migrate(settings, "base")
    migrate(settings)
    database, app = (
        open_database(settings),
        create_celery(settings, lambda _: FakeScorer()),
    )
    try:
        job = steps.make_job(database)
        CeleryBroker(app).enqueue(QUEUE, ((job, number) for number in range(steps.SHARDS)))
        for shard in take_all(app):
            assert app.headmap_runtime.score_shard(*shard) == "done"
        assert steps.read_job(database, job).state is JobState.SUCCEEDED
    finally:
        database.close()
    assert list(tmp_path.iterdir()) == [settings.data_dir]
    assert {path.name for path in settings.data_dir.iterdir()} >= {"registry.sqlite3", "broker"}


def test_a_broker_that_is_away_costs_no_shard(
    app: Celery, database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    job = steps.make_job(database, params=steps.AUTO)
    assert app.headmap_runtime.score_shard(job, 0) == "done"
    queue = Path(settings.data_dir) / "broker" / "queue"
    queue.rmdir()
    queue.touch()
    assert app.headmap_runtime.score_shard(job, 1) == "done"
    assert "waits for the sweeper" in caplog.text
    assert steps.read_job(database, job).state is JobState.RUNNING
