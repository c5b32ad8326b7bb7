"""Which requests wait, are prefilled, or run. Threads meet here, under one lock. Integers only, no tensor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headmap.engine.scheduler import Scheduler, spare_pages
from headmap.engine.sequence import Sequence
from headmap.errors import ShuttingDown
from headmap.kvcache.pool.books import Books


class Roster:
    """The requests of one engine, and which of them start.

    A request starts when memory has room for its kept prompt and a page's worth of steps of all that run. `packs`:
    whether a request's prompt can be prefilled in one row with others, up to `max_prefill_tokens` tokens.

    running, prefilling: oldest first; only the engine's thread changes them. changed: the lock of everything here.
    """

    def __init__(
        self,
        books: Books,
        *,
        max_running: int,
        max_waiting: int,
        max_prefill_tokens: int,
        packs: Callable[[Sequence], bool],
    ) -> None:
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.changed = threading.Condition(threading.RLock())
        self.stop_at: float | None = None
        self._books = books
        self._scheduler: Scheduler[Sequence] = Scheduler(max_running, max_waiting)
        self._max_prefill_tokens = max_prefill_tokens
        self._packs = packs
        self._cancelled: set[str] = set()

    # ---- any thread

    @property
    def busy(self) -> int:
        return len(self.running) + len(self.prefilling)

    @property
    def waiting(self) -> int:
        return len(self._scheduler)

    def add(self, sequence: Sequence) -> None:
        """Queue a request. Raises QueueFull, and ShuttingDown once `stop` was called."""
        with self.changed:
            if self.stop_at is not None:
                raise ShuttingDown("the server is shutting down")
            self._scheduler.add(sequence, self.busy)
            self.changed.notify()

    def cancel(self, request_id: str) -> None:
        with self.changed:
            self._cancelled.add(request_id)
            self.changed.notify()

    def stop(self, seconds: float) -> None:
        """Take no more requests; the present ones have that many seconds."""
        with self.changed:
            self.stop_at = time.monotonic() + seconds
            self.changed.notify()

    # ---- the engine's thread

    def wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when it is time to end."""
        with self.changed:
            while not self.running and not self.waiting and self.stop_at is None:
                self._cancelled.clear()
                self.changed.wait()
            return self.stop_at is None or (bool(self.running or self.waiting) and not self.out_of_time)

    @property
    def out_of_time(self) -> bool:
        return self.stop_at is not None and time.monotonic() >= self.stop_at

    def take_cancelled(self) -> list[Sequence]:
        """Sequences whose clients have gone; those being prefilled end with their prefill."""
        with self.changed:
            ids, self._cancelled = self._cancelled, set()
            self._cancelled.update(sequence.id for sequence in self.prefilling if sequence.id in ids)
            waiting = [sequence for request_id in ids if (sequence := self._scheduler.remove(request_id))]
            return waiting + [sequence for sequence in self.running if sequence.id in ids]

    @property
    def prefill_is_wanted(self) -> bool:
        """Whether any client of the prompts that are being prefilled is still there."""
        return any(sequence.id not in self._cancelled for sequence in self.prefilling)

    def next_pack(self) -> list[Sequence]:
        """Take the requests to prefill: at least one if one fits, more up to the bound on tokens."""
        pack: list[Sequence] = []
        taken = 0

        def fits(sequence: Sequence) -> bool:
            return self._pages(sequence) <= self._spare_pages(len(pack), taken)

        def joins(sequence: Sequence) -> bool:
            if not pack:
                return True
            tokens = sum(one.prompt.prompt_tokens for one in pack) + sequence.prompt.prompt_tokens
            if sequence.alone or tokens > self._max_prefill_tokens:
                return False
            # Only one request of a group is prefilled; the others go on from it.
            groups = {one.request.group for one in pack} - {None}
            return sequence.request.group not in groups and self._packs(sequence)

        with self.changed:
            while sequence := self._scheduler.next(len(self.running) + len(pack), fits, joins):
                pack.append(sequence)
                taken += self._pages(sequence)
                if sequence.alone or not self._packs(sequence):
                    break
            self.prefilling = list(pack)
        return pack

    def next_fork(self, first: Sequence) -> Sequence | None:
        """Take the next request if it belongs to the group of `first`, whose prompt is in the cache."""
        shared = self._books.part(first.slot).used

        def fits(sequence: Sequence) -> bool:
            return self._pages(sequence) - shared <= self._spare_pages()

        def of_group(sequence: Sequence) -> bool:
            return sequence.request.group == first.request.group and not sequence.tokens

        with self.changed:
            fork = self._scheduler.next(len(self.running), fits, of_group)
            if fork is not None:
                self.running.append(fork)
            return fork

    def run_pack(self) -> None:
        """Move the prefilled sequences to the running ones."""
        with self.changed:
            self.running += self.prefilling
            self.prefilling = []

    def put_back(self, sequence: Sequence) -> None:
        """Have a sequence wait again; it is the next to start."""
        with self.changed:
            self.remove(sequence)
            self._scheduler.put_back(sequence)

    def remove(self, sequence: Sequence) -> None:
        with self.changed:
            for among in (self.prefilling, self.running):
                if sequence in among:
                    among.remove(sequence)

    def drain(self) -> list[Sequence]:
        """Remove all sequences, and take no more."""
        with self.changed:
            self.stop_at = self.stop_at or time.monotonic()
            left = [*self.prefilling, *self.running, *self._scheduler.drain()]
            self.prefilling, self.running = [], []
            return left

    def _pages(self, sequence: Sequence) -> int:
        return sequence.pages(self._books.paging, sequence.room)

    def _spare_pages(self, starting: int = 0, taken: int = 0) -> int:
        """Pages for one more sequence, beside `starting` others that start with it and take `taken` pages."""
        return spare_pages(len(self._books.free) - taken, len(self.running) + starting, self._books.tail.rows)
