"""The embedded broker: messages whole, each taken once, all of it under the data directory."""

from __future__ import annotations

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from headmap.jobs.celery_app import create_celery
from headmap.jobs.celery_broker import TASK, CeleryBroker
from headmap.settings import Settings
from tests.shared.jobs.fakes import QUEUE


def take_all(app: Celery, queue_name: str = QUEUE.name) -> list[tuple[str, int]]:
    """What a consumer gets, each message as (job id, number)."""
    found = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(queue_name, no_ack=True)
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
    broker.enqueue(QUEUE, shards)
    assert broker.waiting([QUEUE]) == {QUEUE: 5}
    assert take_all(create_celery(settings)) == shards
    assert broker.waiting([QUEUE]) == {QUEUE: 0}
    assert [path for path in tmp_path.rglob("*.msg*") if path.is_file()] == []


def test_many_senders_and_takers_lose_and_double_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    def send(sender: int) -> None:
        CeleryBroker(create_celery(settings)).enqueue(QUEUE, [(f"job{sender}", number) for number in range(20)])

    def take(_: int) -> list[tuple[str, int]]:
        return [shard for _ in range(5) for shard in take_all(create_celery(settings))]

    with ThreadPoolExecutor(6) as pool:
        takers = pool.map(take, range(3))
        list(pool.map(send, range(3)))
        taken = [shard for found in takers for shard in found]
    taken += take_all(create_celery(settings))
    assert sorted(taken) == sorted((f"job{sender}", number) for sender in range(3) for number in range(20))


def a_message(settings: Settings) -> dict[str, Any]:
    """As it lies in the queue; taken out of it."""
    CeleryBroker(create_celery(settings)).enqueue(QUEUE, [("job", 7)])
    (file,) = (settings.data_dir / "broker" / "queue").iterdir()
    message: dict[str, Any] = json.loads(file.read_text())
    file.unlink()
    return message


def broken(good: dict[str, Any]) -> list[bytes]:
    """Files that are no message, each in another way."""
    changed: list[Any] = [{name: value for name, value in good.items() if name != gone} for gone in ("body", "headers")]
    changed += [good | {"headers": value} for value in (["task"], {}, good["headers"] | {"task": None}, {"task": "x"})]
    changed += [good | {"body": value} for value in (7, "", "\u20ac", base64.b64encode(b"no json").decode())]
    arguments = ([], {}, [[]], [["job"]], [["job", "1"]], [["job", 1, 2]], [[1, 1]], ["job", 1], 7, None)
    changed += [good | {"body": base64.b64encode(json.dumps(value).encode()).decode()} for value in arguments]
    raw = [b"", b"junk", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 50_000, b" " * 100_000]
    return raw + [json.dumps(one).encode() for one in changed]


def test_what_is_no_message_is_set_aside_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(data_dir=tmp_path)
    good = a_message(settings)
    files = broken(good)
    queue = tmp_path / "broker" / "queue"
    for number, data in enumerate(files):
        (queue / f"{number:020d}_x.{QUEUE.name}.msg").write_bytes(data)
    (queue / f"a folder.{QUEUE.name}.msg").mkdir()
    (queue / f"a link.{QUEUE.name}.msg").symlink_to("/dev/zero")
    os.mkfifo(queue / f"a pipe.{QUEUE.name}.msg")
    (tmp_path / "broker" / "control" / "headmap-scoring.exchange").write_text("{broken")
    odd = good | {"properties": 7, "content-type": 7, "headers": good["headers"] | {"eta": "x", "timelimit": 3}}
    (queue / f"1_x.{QUEUE.name}.msg").write_text(json.dumps(odd))
    CeleryBroker(create_celery(settings)).enqueue(QUEUE, [("job", 1)])
    assert take_all(create_celery(settings)) == [("job", 1), ("job", 7)], "what does not matter does no harm"
    assert list(queue.iterdir()) == []
    assert list((tmp_path / "broker" / "taken").iterdir()) == []
    assert len(list((tmp_path / "broker" / "refused").iterdir())) == len(files) + 3
    told = [record.getMessage() for record in caplog.records if "no message of ours" in record.getMessage()]
    assert len(told) == len(files) + 3, "each is named once"


def test_a_queue_that_is_away_is_empty_until_it_is_back(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    app = create_celery(settings)
    CeleryBroker(app).enqueue(QUEUE, [("job", 1)])
    queue, elsewhere = tmp_path / "broker" / "queue", tmp_path / "elsewhere"
    with app.connection_for_read() as connection:
        consumer = connection.SimpleQueue(QUEUE.name, no_ack=True)
        queue.rename(elsewhere)
        with pytest.raises((consumer.Empty, OperationalError)):
            consumer.get(block=False)
        elsewhere.rename(queue)
        assert json.loads(consumer.get(block=False).body)[0] == ["job", 1]
