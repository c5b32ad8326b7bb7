"""The broker of jobs, by Celery."""

from __future__ import annotations

from collections.abc import Iterable

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import ChannelError, OperationalError

from headmap.jobs.queues import JobQueue

TASK = "headmap.score_shard"


class CeleryBroker:
    """The `Broker` of a Celery application. Raises OSError when the broker does not answer."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def enqueue(self, queue: JobQueue, shards: Iterable[tuple[str, int]]) -> None:
        target = celery_queue(queue.name)
        try:
            with self._app.connection_for_write() as connection:
                for job_id, number in shards:
                    self._app.send_task(TASK, args=(job_id, number), queue=target, connection=connection, retry=False)
        except self._errors() as error:
            raise OSError(f"the broker does not answer: {error}") from error

    def waiting(self, queues: Iterable[JobQueue]) -> dict[JobQueue, int]:
        lengths = dict.fromkeys(queues, 0)
        try:
            with self._app.connection_for_write() as connection:
                for queue in lengths:
                    try:
                        found = connection.default_channel.queue_declare(queue.name, passive=True)
                    except ChannelError:
                        continue  # Redis has no list if there is no message
                    lengths[queue] = int(found.message_count)
        except self._errors() as error:
            raise OSError(f"the broker does not answer: {error}") from error
        return lengths

    def _errors(self) -> tuple[type[BaseException], ...]:
        connection = self._app.connection_for_write()
        return OperationalError, *connection.connection_errors, *connection.channel_errors


def celery_queue(name: str) -> Queue:
    """The queue behind the default exchange, which needs no binding."""
    return Queue(name, routing_key=name)
