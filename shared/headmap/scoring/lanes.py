"""Work on a CPU in lanes. A lane is a thread that runs whole pages and uses one torch thread.

Torch's own threads share each operation and wait for each other at its end, which is slow for small operations. In a
lane one thread does every operation, so results are bit-identical for any number of lanes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")

Step = Callable[[], None]
"""A function that the work calls regularly. It raises to end the work."""

_BEAT_SECONDS = 0.1


class _Ended(Exception):
    """Raised in a lane if its work is no longer needed."""


def in_lanes(items: Iterable[S], work: Callable[[S, Step], T], *, lanes: int, on_step: Step) -> Iterator[T]:
    """Yield `work` of each item in order. `work` receives a function that it must call regularly.

    The iterating thread takes the items. It also calls `on_step` after some tenths of a second without a result. An
    error in `work`, the items or `on_step` ends all lanes at their next step. At most two items per lane are held at a
    time.
    """
    ended = Event()

    def step() -> None:
        if ended.is_set():
            raise _Ended

    rest = iter(items)
    under_way: deque[Future[T]] = deque()
    before = torch.get_num_threads()
    with ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            while True:
                for item in islice(rest, 2 * lanes - len(under_way)):
                    under_way.append(pool.submit(work, item, step))
                if not under_way:
                    return
                yield _result(under_way.popleft(), on_step)
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def _result(work: Future[T], on_step: Step) -> T:
    while not wait([work], _BEAT_SECONDS).done:
        on_step()
    return work.result()
