"""From the engine's thread to the event loop: one request's events, and its end when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from starlette.requests import Request

from headmap.engine.messages import Cancelled, EngineRequest, Event, Failed, Finished, Token
from services.inference.served_model import EngineLike

T = TypeVar("T")


class EngineCall:
    """One request in an engine.

    `submit` raises what the engine refuses at once. `events` yields Tokens and then Finished, or raises the error of a
    Failed; leaving it earlier (a hang-up, a cancelled task) cancels the request in the engine.
    """

    def __init__(self, engine: EngineLike, request: EngineRequest) -> None:
        self._engine, self._request = engine, request
        self._loop = asyncio.get_running_loop()
        # As long as the answer at most, so a slow reader costs its own tokens and holds nobody up.
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._ended = False
        self.submitted = time.perf_counter()

    def submit(self) -> None:
        self._engine.submit(self._request, self._on_event)

    def cancel(self) -> None:
        """Safe to call at any time; does nothing once the request has ended."""
        if not self._ended:
            self._ended = True
            self._engine.cancel(self._request.id)

    async def events(self) -> AsyncGenerator[Token | Finished, None]:
        try:
            while True:
                event = await self._queue.get()
                if isinstance(event, Failed):
                    self._ended = True
                    raise event.error
                if isinstance(event, Finished):
                    self._ended = True
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()

    def _on_event(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending and nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, or Cancelled, with `work` cancelled, as soon as the client hangs up."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("the client hung up")
        return task.result()
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    # The body has been read, so all that can still arrive is the disconnect.
    while (await request.receive())["type"] != "http.disconnect":
        pass
