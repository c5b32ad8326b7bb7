"""The interface of the broker. Its messages only hint at work; the state of jobs is in SQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from headmap.jobs.queues import JobQueue


class Broker(Protocol):
    """Raises OSError if the broker cannot be reached; the caller goes on, and the sweeper enqueues later."""

    def enqueue(self, queue: JobQueue, shards: Iterable[tuple[str, int]]) -> None:
        """Send one message for each shard, given as (job id, number), to some worker that takes from the queue."""
        ...

    def waiting(self, queues: Iterable[JobQueue]) -> dict[JobQueue, int]:
        """Return the number of messages in each queue that no worker has taken yet."""
        ...
