"""What the engine's tests drive it with: small requests, their events, and faults on chosen calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from headmap.engine.engine import Engine
from headmap.engine.messages import EngineRequest, Event, Failed, Finished, OnEvent, Token
from headmap.engine.sampling.params import SamplingParams
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.transformers.prefill import Prompt

SECONDS = 60


class Call:
    """A request's events as they come."""

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self.events: list[Event] = []
        self._extra = on_event
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._extra is not None:
            self._extra(event)
        if not isinstance(event, Token):
            self._ended.set()

    def ended(self) -> Event:
        if not self._ended.wait(SECONDS):
            raise TimeoutError("no terminal event")
        return self.events[-1]

    def result(self) -> Finished:
        last = self.ended()
        if isinstance(last, Failed):
            raise last.error
        assert isinstance(last, Finished)
        assert "".join(e.text for e in self.events if isinstance(e, Token)) + last.tail == last.generated_text
        assert tuple(e.id for e in self.events if isinstance(e, Token)) == last.token_ids
        return last


def make(
    model: LoadedModel, name: str, kv: KVRequest | None = None, width: int = 64, **sampling: object
) -> EngineRequest:
    pixels = np.random.default_rng(width).integers(0, 255, (48, width, 3), dtype=np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    prompt = model.prepare([{"role": "user", "content": content}], [Image.fromarray(pixels)])
    layers, heads = model.info.num_layers, model.info.num_heads
    scores = HeadScores(np.arange(layers * heads, dtype=float).reshape(layers, heads) ** 3, model.info.num_kv_heads)
    params = SamplingParams(**{"max_new_tokens": 8, "seed": 7, **sampling})
    return EngineRequest(name, prompt, kv or KVRequest("full"), params, scores)


def assert_all_free(engine: Engine) -> None:
    """A client hears of its end before the memory is free."""
    until = time.monotonic() + SECONDS
    while engine.stats().kv_held_bytes and time.monotonic() < until:
        time.sleep(0.001)
    assert engine.stats().kv_held_bytes == 0


def submit(engine: Engine, request: EngineRequest, on_event: OnEvent | None = None) -> Call:
    call = Call(on_event)
    engine.submit(request, call)
    return call


class Faulty:
    """Stands in for a runner's method and fails on chosen calls."""

    def __init__(self, inner: Callable[..., torch.Tensor], fails: Callable[[int], bool], error: Exception) -> None:
        self.inner, self.fails, self.error, self.calls = inner, fails, error, 0

    def __call__(self, *args: object, **kwargs: object) -> torch.Tensor:
        self.calls += 1
        if self.fails(self.calls):
            raise self.error
        return self.inner(*args, **kwargs)


@contextmanager
def prefill_fails(engine: Engine, when: Callable[[int], bool], error: Exception) -> Iterator[None]:
    """Prefills of so many prompts, `when` says, fail."""
    inner = engine._runner.prefill

    def faulty(prompts: Sequence[Prompt], *args: object, **kwargs: object) -> torch.Tensor:
        if when(len(prompts)):
            raise error
        return inner(prompts, *args, **kwargs)

    engine._runner.prefill = faulty
    try:
        yield
    finally:
        engine._runner.prefill = inner


def at_once(engine: Engine, requests: Sequence[EngineRequest]) -> list[Call]:
    """Submitted at one moment: those behind the first are prefilled together."""
    with engine._roster.changed:  # its lock is reentrant; the engine looks once all are in the queue
        return [submit(engine, request) for request in requests]
