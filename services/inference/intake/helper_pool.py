"""A few helper processes for many callers: fair between them, and not a moment longer than somebody waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from services.inference.intake.helper import Helper

T = TypeVar("T")

GRACE_SECONDS = 0.2
"""A task that nobody waits for may end by itself so long; a process that goes on need not be started again."""


class FairSlots(Generic[T]):
    """Items that callers use one at a time each. The next free one goes to who waits and uses the fewest.

    A caller uses all but one at most, where there are several: one is left for the next. Used on one event loop.
    """

    def __init__(self, items: Sequence[T]) -> None:
        self._idle = list(items)
        self._most = max(1, len(items) - 1)
        self._used: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[T]]] = []

    async def take(self, caller: str) -> T:
        """Cancelled, it takes nothing."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        entry = (caller, future)
        self._waiting.append(entry)
        self._hand_out()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(caller, future.result())
            else:
                self._waiting.remove(entry)
            raise

    def give(self, caller: str, item: T) -> None:
        self._used[caller] -= 1
        if not self._used[caller]:
            del self._used[caller]
        self._idle.append(item)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._idle:
            able = [entry for entry in self._waiting if self._used[entry[0]] < self._most and not entry[1].done()]
            if not able:
                return
            entry = min(able, key=lambda one: self._used[one[0]])
            self._waiting.remove(entry)
            self._used[entry[0]] += 1
            entry[1].set_result(self._idle.pop())


class Job:
    """One caller's hold on a helper."""

    def __init__(self, helper: Helper, threads: ThreadPoolExecutor) -> None:
        self._helper, self._threads = helper, threads
        self.at_work: asyncio.Future[Any] | None = None

    async def do(self, work: Callable[[Helper], T]) -> T:
        """What `work` returns, in a thread. Cancelled, it ends the process where that does not end by itself."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, work, self._helper)
        self.at_work = future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            timer = loop.call_later(GRACE_SECONDS, self._helper.kill)
            future.add_done_callback(lambda _: timer.cancel())
            raise


class HelperPool:
    """Lends `helpers`, each to one job at a time, with a thread for each."""

    def __init__(self, helpers: Sequence[Helper]) -> None:
        self.helpers = tuple(helpers)
        self._slots = FairSlots(self.helpers)
        self._threads = ThreadPoolExecutor(len(self.helpers), thread_name_prefix="helper")

    @asynccontextmanager
    async def job(self, caller: str) -> AsyncIterator[Job]:
        """Waits for a helper; callers that use fewer come first."""
        helper = await self._slots.take(caller)
        job = Job(helper, self._threads)

        def give(future: asyncio.Future[Any] | None) -> None:
            if future is not None and not future.cancelled():
                future.exception()  # nobody else asks for it where the job was left
            self._slots.give(caller, helper)

        try:
            yield job
        finally:
            if job.at_work is None or job.at_work.done():
                give(job.at_work)
            else:
                job.at_work.add_done_callback(give)

    def close(self) -> None:
        """End all processes, at work or not."""
        for helper in self.helpers:
            helper.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
