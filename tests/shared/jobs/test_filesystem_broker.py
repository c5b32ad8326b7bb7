"""The embedded broker: messages whole, each taken once, all of it under the data directory."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError

from headmap.jobs.celery_app import QUEUE, TASK, CeleryBroker, create_celery
from headmap.settings import Settings


def take_all(app: Celery) -> list[tuple[str, int]]:
    """What a consumer gets, each message as (job id, number)."""
    found = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(QUEUE, no_ack=True)
        while True:
            try:
                message = queue.get(block=False)
            except (queue.Empty, OperationalError):
                return found
            assert message.headers["task"] == TASK
            found.append(tuple(json.loads(message.body)[0]))


def test_what_is_sent_arrives_in_order(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    broker = CeleryBroker(create_celery(settings))
    shards = [("job", number) for number in range(5)]
    broker.enqueue(shards)
    assert broker.waiting() == 5
    assert take_all(create_celery(settings)) == shards
    assert broker.waiting() == 0
    assert [path for path in tmp_path.rglob("*.msg*") if path.is_file()] == []


def test_many_senders_and_takers_lose_and_double_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    def send(sender: int) -> None:
        CeleryBroker(create_celery(settings)).enqueue([(f"job{sender}", number) for number in range(20)])

    def take(_: int) -> list[tuple[str, int]]:
        return [shard for _ in range(5) for shard in take_all(create_celery(settings))]

    with ThreadPoolExecutor(6) as pool:
        takers = pool.map(take, range(3))
        list(pool.map(send, range(3)))
        taken = [shard for found in takers for shard in found]
    taken += take_all(create_celery(settings))
    assert sorted(taken) == sorted((f"job{sender}", number) for sender in range(3) for number in range(20))
