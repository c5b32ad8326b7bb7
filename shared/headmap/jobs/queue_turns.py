"""The order in which a worker looks into its queues: one model for a while, so that it seldom loads another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from kombu.utils.scheduling import FairCycle

from headmap.jobs.queues import model_part


class QueueTurns:
    """The queues of the last message's model come first, for a turn of `seconds`; then they come last.

    So a model whose queue never empties keeps another one waiting for a turn at most, and each other model gets a turn
    before it has its next. Has the methods of kombu's `round_robin_cycle`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._items: list[str] = []
        self._holder: str | None = None
        self._until = 0.0

    def update(self, items: Iterable[str]) -> None:
        """Set the queues. Those that stay keep their places."""
        given = set(items)
        self._items = [item for item in self._items if item in given]
        self._items += sorted(given.difference(self._items))

    def consume(self, count: int) -> list[str]:
        """Return up to `count` queues, in the order in which to look into them."""
        if self._holder is not None and self._clock() >= self._until:
            holder, self._holder = self._holder, None
            self._items.sort(key=lambda item: model_part(item) == holder)
        return self._items[:count]

    def rotate(self, last_used: str) -> str:
        """Note which queue the last message came from."""
        model = model_part(last_used)
        if model != self._holder:
            self._holder, self._until = model, self._clock() + self._seconds
            self._items.sort(key=lambda item: model_part(item) != model)
        return last_used


class TurnCycle(FairCycle):
    """kombu's cycle of a channel that is asked queue by queue. `get(queue)` returns a message or raises `empty`."""

    def __init__(
        self, get: Callable[[str], Any], resources: list[str], empty: type[Exception], turns: QueueTurns
    ) -> None:
        super().__init__(get, resources, empty)
        self._turns = turns

    def get(self, callback: Callable[[Any, str], None], **_: Any) -> None:
        self._turns.update(self.resources)
        for queue in self._turns.consume(len(self.resources)):
            try:
                message = self.fun(queue)
            except self.predicate:
                continue
            self._turns.rotate(queue)
            callback(message, queue)  # does the shard
            return
        raise self.predicate
