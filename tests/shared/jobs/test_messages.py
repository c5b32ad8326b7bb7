"""What the Celery application promises of messages: late acknowledgements, JSON alone, limits below the visibility."""

from __future__ import annotations

from pathlib import Path

import pytest

from headmap.jobs.celery_app import create_celery, worker_arguments
from headmap.settings import Settings


@pytest.mark.parametrize("broker", [None, "redis://127.0.0.1:1/0"])
def test_a_message_is_acknowledged_when_it_is_done_and_read_as_json_alone(tmp_path: Path, broker: str | None) -> None:
    conf = create_celery(Settings(data_dir=tmp_path, broker_url=broker)).conf
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier) == (True, 1)
    assert (conf.accept_content, conf.task_serializer) == (["json"], "json")
    assert (conf.result_backend, conf.task_ignore_result) == (None, True)
    assert conf.worker_soft_shutdown_timeout > 0


def test_the_broker_hands_nothing_out_again_that_may_still_be_worked_on(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0", shard_time_limit=1000)
    conf = create_celery(settings).conf
    visibility = conf.broker_transport_options["visibility_timeout"]
    assert settings.shard_seconds < conf.task_soft_time_limit < conf.task_time_limit == 1000 < visibility


def test_a_worker_takes_its_pool_from_the_command_line() -> None:
    arguments = worker_arguments(pool="prefork", concurrency=2)
    assert {"--pool=prefork", "--concurrency=2"} <= set(arguments)
