"""Who runs next: first come, first served under the KV memory. Decides with integers; touches no tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headmap.errors import QueueFull


class Waiting(Protocol):
    """What the scheduler must know of a request: its id, its group and the KV bytes it may come to hold."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str | None: ...
    @property
    def reservation(self) -> int: ...


W = TypeVar("W", bound=Waiting)

MAX_OVERTAKES = 16
"""How many smaller requests may pass one that does not fit yet; then all wait until it fits."""


class Scheduler(Generic[W]):
    """A bounded queue. Not thread-safe: the engine locks around it."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self._queue: deque[W] = deque()
        self._overtakes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, request: W) -> None:
        """Raises QueueFull when `max_waiting` requests wait already."""
        if len(self._queue) >= self.max_waiting:
            raise QueueFull(f"{len(self._queue)} requests are waiting, the most this server queues")
        self._queue.append(request)

    def remove(self, request_id: str) -> W | None:
        """Take a waiting request out of the queue, wherever it stands."""
        found = next((request for request in self._queue if request.id == request_id), None)
        if found is not None:
            if self._queue[0] is found:
                self._overtakes = 0
            self._queue.remove(found)
        return found

    def drain(self) -> list[W]:
        """Take out all that wait."""
        waiting = list(self._queue)
        self._queue.clear()
        self._overtakes = 0
        return waiting

    def next(self, running: int, fits: Callable[[int], bool], group: str | None = None) -> W | None:
        """Take the request to start now, or None. `fits(bytes)` tells whether a reservation fits the memory.

        With `group`, None also where another group's turn it is.
        """
        if running >= self.max_running or not self._queue:
            return None
        if fits(self._queue[0].reservation):
            if group is not None and self._queue[0].group != group:
                return None
            self._overtakes = 0
            return self._queue.popleft()
        if self._overtakes < MAX_OVERTAKES:
            smaller = next((request for request in self._queue if fits(request.reservation)), None)
            if smaller is not None and (group is None or smaller.group == group):
                self._overtakes += 1
                self._queue.remove(smaller)
                return smaller
        return None
