"""One HTTP request's answers: one run, or several side by side where `n` or several prompts ask for more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request

from headmap.engine.messages import Finished, Token
from headmap.errors import HeadmapError
from headmap.http.auth import KEY_NAME
from services.inference.bridge import unless_gone
from services.inference.http.deps import InferenceState
from services.inference.http.running import Answer, Run
from services.inference.requests import Ask, ReadyRequest, ServedModel


def caller(request: Request) -> str | None:
    """The name of the key that a request came with: sessions are each caller's own."""
    name: str | None = request.scope.get(KEY_NAME)
    return name


class Choices:
    """Several runs that end together: when one fails or the client hangs up, the others are cancelled.

    Choice i of prompt p is run p x n + i. Each takes its own place in the queue and its own memory.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = tuple(runs)

    @property
    def ready(self) -> tuple[ReadyRequest, ...]:
        return tuple(run.ready for run in self._runs)

    @classmethod
    async def prepare(
        cls, request: Request, state: InferenceState, served: ServedModel, asks: Sequence[Ask], n: int = 1
    ) -> Choices:
        """Raises as `Serving.prepare`, and Cancelled when the client hangs up meanwhile."""

        async def all_ready() -> list[ReadyRequest]:
            return [await state.serving.prepare(served, ask) for ask in asks]

        try:
            ready = await unless_gone(request, all_ready())
        except HeadmapError as error:
            state.metrics.failed(served.info.name, error.code)
            raise
        return cls([Run(state, one.choice(number)) for one in ready for number in range(n)])

    def start(self) -> None:
        """Submit them. Raises what the engine refuses at once, so that a stream that cannot start is a plain error."""
        for number, run in enumerate(self._runs):
            try:
                run.start()
            except BaseException:
                for started in self._runs[:number]:
                    started.cancel()
                raise

    async def whole(self, request: Request) -> list[Answer]:
        """Start them; the answers in order. Raises as `start`, what a run fails with, and Cancelled on a hang-up."""
        self.start()
        return await unless_gone(request, self._all())

    async def _all(self) -> list[Answer]:
        tasks = [asyncio.ensure_future(run.whole()) for run in self._runs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await self._end(tasks)

    async def tokens(self) -> AsyncGenerator[tuple[int, Token, Finished | None], None]:
        """(run, token, the result with its last token) as they come, of runs that have been started."""
        if len(self._runs) == 1:
            async for token, finished in self._runs[0].tokens():
                yield 0, token, finished
            return
        queue: asyncio.Queue[tuple[int, Token, Finished | None] | BaseException] = asyncio.Queue()

        async def pump(number: int, run: Run) -> None:
            try:
                async for token, finished in run.tokens():
                    queue.put_nowait((number, token, finished))
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.ensure_future(pump(number, run)) for number, run in enumerate(self._runs)]
        try:
            left = len(self._runs)
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
        for run in self._runs:  # a task that was cancelled before its first step has not done it
            run.cancel()
