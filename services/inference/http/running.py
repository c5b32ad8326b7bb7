"""Run a prepared request: whole, or as a stream of tokens whose last one carries the result; both are counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from headmap.engine.messages import Finished, Token
from headmap.errors import HeadmapError
from services.inference.bridge import EngineCall
from services.inference.http.deps import InferenceState
from services.inference.requests import ReadyRequest


@dataclass(frozen=True)
class Answer:
    """A request, its result, and the tokens it came in."""

    ready: ReadyRequest
    finished: Finished
    tokens: tuple[Token, ...]


class Run:
    """One prepared request: `start` it, then take it `whole` or as a stream of `tokens`; leaving either cancels it."""

    def __init__(self, state: InferenceState, ready: ReadyRequest) -> None:
        self.ready = ready
        self._state = state
        self._call = EngineCall(ready.served.opened.engine, ready.engine_request)
        self._model = ready.served.info.name

    async def whole(self) -> Answer:
        """The result of a run that has been started. Raises what the engine fails with."""
        tokens: list[Token] = []
        async for event in self._counted():
            if isinstance(event, Finished):
                return Answer(self.ready, event, tuple(tokens))
            tokens.append(event)
        raise RuntimeError("the engine's events ended without a terminal one")

    def cancel(self) -> None:
        """End it in the engine; does nothing once it has ended."""
        self._call.cancel()

    def start(self) -> None:
        """Submit it. Raises what the engine refuses at once, so that a stream that cannot start is a plain error."""
        try:
            self._call.submit()
        except HeadmapError as error:
            self._state.metrics.failed(self._model, error.code)
            raise

    async def tokens(self) -> AsyncGenerator[tuple[Token, Finished | None], None]:
        """Each token as it comes, the last one with the result and the text that was held back until the end.

        A token is sent at once unless it may be the last: one that ends the text, or any where stop strings or a
        grammar are given.
        """
        sampling = self.ready.sampling
        may_end = bool(sampling.stop) or self.ready.engine_request.grammar is not None
        eos = frozenset() if sampling.ignore_eos else self.ready.served.opened.eos_token_ids
        held: Token | None = None
        count = 0
        async for event in self._counted():
            if isinstance(event, Finished):
                last = held or Token(event.token_ids[-1] if event.token_ids else 0, "")
                yield Token(last.id, last.text + event.tail), event
                return
            if held is not None:
                yield held, None
            count += 1
            held = event
            if not (may_end or event.id in eos or count >= sampling.max_new_tokens):
                yield held, None
                held = None

    async def _counted(self) -> AsyncGenerator[Token | Finished, None]:
        metrics, submitted = self._state.metrics, self._call.submitted
        first, finished = True, False
        events = self._call.events()
        try:
            async for event in events:
                if isinstance(event, Token) and first:
                    metrics.first_token(self._model, submitted)
                    first = False
                if isinstance(event, Finished):
                    metrics.finished(self.ready, event, submitted)
                    finished = True
                yield event
        except HeadmapError as error:
            metrics.failed(self._model, error.code)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not finished:  # who has the result stops listening, too
                metrics.failed(self._model, "cancelled")
            raise
        finally:
            await events.aclose()
