"""The answers to one HTTP request: one, or several side by side where `n` or several prompts ask for more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from headmap.engine.messages import Cancelled, Finished, Token
from headmap.errors import HeadmapError
from headmap.http.receiving import request_bytes
from services.inference.asked import AskedRequest
from services.inference.bridge import Answer, Generation
from services.inference.http.kv_choice import Chosen
from services.inference.serving import Serving

T = TypeVar("T")


class Answers:
    """Generations that end together: if one fails or the client hangs up, the others are cancelled.

    Choice i of prompt p is generation p x n + i. Each takes its own place in the queue and its own memory. `model`: its
    name in the answer.
    """

    def __init__(self, generations: Sequence[Generation], model: str) -> None:
        self.generations, self.model = tuple(generations), model

    @classmethod
    async def prepare(
        cls, request: Request, serving: Serving, chosen: Chosen, asked: Sequence[AskedRequest], n: int = 1
    ) -> Answers:
        """Raises as `Serving.prepare` does, and Cancelled if the client hangs up meanwhile."""

        async def prepare_all() -> list[Generation]:
            held = request_bytes(request.scope)
            return [await serving.prepare(chosen.served, one, held) for one in asked]

        try:
            prepared = await unless_gone(request, prepare_all())
        except HeadmapError as error:
            serving.metrics.failed(chosen.served.info.name, error)
            raise
        return cls([one.again(number) for one in prepared for number in range(n)], chosen.name)

    def start(self) -> None:
        """Submit them. Raises the engine's immediate refusals, so that a stream that cannot start is a plain error."""
        for number, generation in enumerate(self.generations):
            try:
                generation.start()
            except BaseException:
                for started in self.generations[:number]:
                    started.cancel()
                raise

    async def whole(self, request: Request) -> list[Answer]:
        """Start them; the answers in order. Raises as `start`, what a generation fails with, and Cancelled on a
        hang-up."""
        self.start()
        return await unless_gone(request, self._all())

    async def _all(self) -> list[Answer]:
        tasks = [asyncio.ensure_future(generation.whole()) for generation in self.generations]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await self._end(tasks)

    async def tokens(self) -> AsyncGenerator[tuple[int, Token, Finished | None], None]:
        """(generation's number, token, the result with its last token) as they come, once started."""
        if len(self.generations) == 1:
            async for token, finished in self.generations[0].tokens():
                yield 0, token, finished
            return
        queue: asyncio.Queue[tuple[int, Token, Finished | None] | BaseException] = asyncio.Queue()

        async def pump(number: int, generation: Generation) -> None:
            try:
                async for token, finished in generation.tokens():
                    queue.put_nowait((number, token, finished))
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.ensure_future(pump(number, one)) for number, one in enumerate(self.generations)]
        try:
            left = len(self.generations)
            while left:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                left -= item[2] is not None
                yield item
        finally:
            await self._end(tasks)

    async def _end(self, tasks: Sequence[asyncio.Future[Any]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for generation in self.generations:  # a task cancelled before its first step never ran its own clean-up
            generation.cancel()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`. If the client hangs up, cancels `work` and raises Cancelled."""
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
    # The body has been read, so only the disconnect can still arrive.
    while (await request.receive())["type"] != "http.disconnect":
        pass
