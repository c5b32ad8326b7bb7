"""The broker as jobs see it: a hint that there is work. SQL holds the truth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Broker(Protocol):
    """Raises OSError if the broker cannot be reached; the caller goes on, and the sweeper enqueues later."""

    def enqueue(self, shards: Iterable[tuple[str, int]]) -> None:
        """Tell some worker of each shard, given as (job id, number)."""
        ...

    def waiting(self) -> int:
        """Messages that no worker has taken yet."""
        ...
