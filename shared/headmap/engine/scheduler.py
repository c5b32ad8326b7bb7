"""Decides which request runs next: first come, first served, as far as pages allow. Integers only, no tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headmap.errors import QueueFull


class Waiting(Protocol):
    """The part of a request that the scheduler uses."""

    @property
    def id(self) -> str: ...


W = TypeVar("W", bound=Waiting)


def spare_pages(free: int, running: int, step_pages: int) -> int:
    """Pages of `free` that a starting sequence may take: a page's worth of steps stays for each of `running`.

    step_pages: the pages that a sequence takes each time its tail needs more.
    """
    return free - running * step_pages


def startable(free: int, start_pages: int, step_pages: int) -> int:
    """How many sequences of `start_pages` each can start at once if no sequence runs yet."""
    return max(0, (free + step_pages) // (start_pages + step_pages))


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

    def add(self, request: W, running: int) -> None:
        """Queue a request. Raises QueueFull if more than `max_waiting` would wait once all others run that can."""
        ahead = running + len(self._queue)
        if ahead >= self.max_running + self.max_waiting:
            raise QueueFull(f"{ahead} requests are running or waiting, and the server takes no more")
        self._queue.append(request)

    def put_back(self, request: W) -> None:
        """Queue a request that was running: it comes next."""
        self._queue.appendleft(request)
        self._overtakes = 0

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

    def next(self, running: int, fits: Callable[[W], bool], wanted: Callable[[W], bool] | None = None) -> W | None:
        """Take the request to start now, or None.

        `fits`: whether memory suffices for a request to start. Also None if `wanted` rejects the next one.
        """
        if running >= self.max_running or not self._queue:
            return None
        found, passes = self._queue[0], 0
        if not fits(found):
            if self._overtakes >= MAX_OVERTAKES:
                return None
            smaller = next((request for request in self._queue if fits(request)), None)
            if smaller is None:
                return None
            found, passes = smaller, self._overtakes + 1
        if wanted is not None and not wanted(found):
            return None
        self._overtakes = passes
        self._queue.remove(found)
        return found
