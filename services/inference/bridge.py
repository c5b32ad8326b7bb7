"""The bridge from the engine's thread to the event loop: one request in an engine, its events, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from headmap.engine.messages import Cancelled, EngineRequest, Event, Failed, Finished, Token
from headmap.errors import HeadmapError
from headmap.tracing import NO_SPAN, current_span
from services.inference.maps import ServedMap
from services.inference.metrics import InferenceMetrics
from services.inference.policies import ServedPolicy
from services.inference.served_model import ServedModel
from services.inference.traces import begin_generation, end_generation, fail_generation


@dataclass(frozen=True)
class Answer:
    """The outcome of a generation: its result, and its tokens."""

    generation: Generation
    finished: Finished
    tokens: tuple[Token, ...]


class Generation:
    """One request in an engine, counted in the metrics.

    `start` it, then take it as a `whole` or as a stream of `tokens`; leaving either early (a hang-up, a cancelled task)
    cancels it in the engine. `policy`: what said how much to keep. `map`: its scores set the budgets.
    `map_missing`: the requested method needs a map and the model has none, so another method runs.
    """

    def __init__(
        self,
        served: ServedModel,
        request: EngineRequest,
        metrics: InferenceMetrics,
        *,
        policy: ServedPolicy | None = None,
        map: ServedMap | None = None,
        map_missing: bool = False,
    ) -> None:
        self.served, self.request, self.policy = served, request, policy
        self.map, self.map_missing = map, map_missing
        self._metrics, self._model = metrics, served.info.name
        self._loop = asyncio.get_running_loop()
        # It never holds more than the answer, so a slow reader costs its own tokens and holds nobody up.
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._ended = False
        self._submitted = time.perf_counter()
        self._span = NO_SPAN

    def again(self, number: int) -> Generation:
        """The same request as choice `number`, with the seed after `number` others: seeds are a ring, from -2^63 up to
        2^63. Choice 0 is this one."""
        if number == 0:
            return self
        seed = (self.request.sampling.seed + number + 2**63) % 2**64 - 2**63
        sampling = replace(self.request.sampling, seed=seed)
        request = replace(self.request, id=uuid.uuid4().hex, sampling=sampling)
        return Generation(self.served, request, self._metrics, map=self.map, map_missing=self.map_missing)

    def start(self) -> None:
        """Submit it. Raises the engine's immediate refusals, so that a stream that cannot start is a plain error."""
        self._submitted = time.perf_counter()
        self._span = begin_generation(
            current_span.get(), self._model, self.request, None if self.map is None else self.map.id
        )
        try:
            self.served.opened.engine.submit(self.request, self._on_event)
        except HeadmapError as error:
            self._failed(error)
            raise

    def cancel(self) -> None:
        """End it in the engine. Safe to call at any time; does nothing once it has ended."""
        if not self._ended:
            self._ended = True
            self.served.opened.engine.cancel(self.request.id)
        self._span.end()

    async def whole(self) -> Answer:
        """The result, once started. Raises the engine's error if it fails."""
        tokens: list[Token] = []
        async for event in self._events():
            if isinstance(event, Finished):
                return Answer(self, event, tuple(tokens))
            tokens.append(event)
        raise RuntimeError("the engine's events ended without a terminal one")

    async def tokens(self) -> AsyncGenerator[tuple[Token, Finished | None], None]:
        """Each token as it comes, once started; the last one brings the result and the text held back until the end.

        An answer without tokens brings one empty token with its result.
        """
        last = Token(0, "")
        async for event in self._events():
            if isinstance(event, Finished):
                yield replace(last, text=last.text + event.tail), event
                return
            if event.last:
                last = event
            else:
                yield event, None

    def ends(self, token: int) -> bool:
        """Whether a token ends the answer without being part of it."""
        sampling = self.request.sampling
        return token in sampling.stop_token_ids or (
            not sampling.ignore_eos and token in self.served.opened.eos_token_ids
        )

    async def _events(self) -> AsyncGenerator[Token | Finished, None]:
        """Tokens, then Finished. Raises the error of a Failed."""
        told_at, finished = 0.0, False
        try:
            while not finished:
                event = await self._queue.get()
                if isinstance(event, Failed):
                    self._ended = True
                    raise event.error
                if isinstance(event, Finished):
                    self._ended = finished = True
                    self._metrics.finished(self._model, self.request, event, self._submitted)
                    end_generation(self._span, self._model, event)
                else:
                    before, told_at = told_at, time.perf_counter()
                    if before:
                        self._metrics.next_token(self._model, told_at - before)
                    else:
                        self._metrics.first_token(self._model, self._submitted)
                yield event
        except HeadmapError as error:
            self._failed(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not finished:  # a listener that has the result stops listening, too
                self._failed(Cancelled("the client went away"))
            raise
        finally:
            self.cancel()

    def _failed(self, error: HeadmapError) -> None:
        self._metrics.failed(self._model, error)
        fail_generation(self._span, error)

    def _on_event(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends and nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
