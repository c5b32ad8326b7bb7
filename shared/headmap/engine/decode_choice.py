"""How decode steps run: which backend attends, and whether CUDA graphs replay them. A trial decides both when the
engine is made, against results known to be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from headmap.device_errors import is_broken_device
from headmap.engine.graphs import Capture
from headmap.engine.runner import ModelRunner
from headmap.errors import DeviceFailed, Unavailable
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.backends.choice import (
    Choice,
    Tried,
    choose_backend,
    error_bound,
    failure,
    step_milliseconds,
    worst_error,
)
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.prefill import Prompt

GraphMode = Literal["auto", "on", "off"]
ON, OFF = "on", "off"

_PROMPT = "A made-up prompt, for steps that are looked at and forgotten."
_STEPS = 3
_SEQUENCES = 3
"""Not a power of two: the graph is filled up with the idle slot."""
_GRAPH_ERROR = 16
"""Times what rounding may cost one layer: it grows from layer to layer."""


@dataclass(frozen=True)
class DecodeChoice:
    """Trial results: `attention` of decode backends, `graphs` of steps with graphs ("on") and without ("off")."""

    attention: Choice
    graphs: Choice

    def __str__(self) -> str:
        return f"attention by {self.attention}; CUDA graphs {self.graphs}"


def choose_attention(name: str, loaded: LoadedModel) -> Choice:
    """Raises Unavailable if the named candidate gives wrong results for the model on this machine, or all do."""
    shape = loaded.cache_shape
    group = loaded.info.num_heads // loaded.info.num_kv_heads
    try:
        return choose_backend(name, shape, dtype=loaded.model.dtype, device=loaded.device, group=group)
    except Unavailable as error:
        raise Unavailable(f"HEADMAP_DECODE_BACKEND={name}: {error.detail}") from error


def choose_graphs(
    mode: GraphMode, loaded: LoadedModel, cache: RaggedCache, make_capture: Callable[[], Capture] | None
) -> tuple[Choice, ModelRunner]:
    """Whether graphs replay steps, and the runner for them. `make_capture`: None if the device has no graphs.

    "auto" replays if that is right and faster; "on" raises Unavailable if it is not right.
    """
    plain = ModelRunner(loaded, cache)
    tried: tuple[Tried, ...]
    reason = "not asked for" if mode == OFF else _missing(cache, make_capture)
    if reason is None and make_capture is not None:
        graphed = ModelRunner(loaded, cache, capture=make_capture())
        tried = _try_graphs(plain, graphed)
        choice = Choice(ON, tried)
        if tried[0].right and (mode == ON or (choice.gain or 0.0) > 1):
            return choice, graphed
        reason = tried[0].reason
    else:
        tried = (Tried(ON, reason=reason),)
    if mode == ON:
        raise Unavailable(f"HEADMAP_CUDA_GRAPHS=on: {reason}")
    return Choice(OFF, tried), plain


def _missing(cache: RaggedCache, make_capture: Callable[[], Capture] | None) -> str | None:
    if make_capture is None:
        return f"{cache.pool.device.type} has none"
    return None if cache.backend.capturable else f"backend {cache.backend.name} cannot be captured"


def _try_graphs(plain: ModelRunner, graphed: ModelRunner) -> tuple[Tried, Tried]:
    """The same few steps on made-up sequences, with and without graphs: (with, without)."""
    prompt = plain.loaded.prepare_text(_PROMPT)
    cache, device = plain.cache, plain.loaded.device
    count = min(_SEQUENCES, cache.books.slots)
    try:
        expected, plain_ms = _run_steps(plain, prompt, count, device)
        logits, graphed_ms = _run_steps(graphed, prompt, count, device)
    except Exception as error:
        if is_broken_device(error):
            raise DeviceFailed("a made-up step broke the device") from error
        return Tried(ON, reason=failure(error)), Tried(OFF)
    error_of = worst_error(logits, expected.double())
    bound = _GRAPH_ERROR * error_bound(plain.loaded.model.dtype)
    reason = None if error_of <= bound else f"wrong by {error_of:.1e}, at most {bound:.1e} is right"
    if graphed.graphed is not None and not graphed.graphed.replayed:
        reason = "no memory for a graph"
    return Tried(ON, error_of, graphed_ms, reason), Tried(OFF, 0.0, plain_ms)


def _run_steps(
    runner: ModelRunner, prompt: PreparedPrompt, count: int, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Logits (steps, count, vocab) of steps with given tokens, and milliseconds of one more step, run many times."""
    cache = runner.cache
    plan = plan_cache(KVRequest("full"), cache.shape, prompt.prompt_tokens, None)
    slots: list[int] = []
    try:
        for _ in range(count):
            slots.append(cache.admit(plan, 1))
            runner.prefill([Prompt(slots[-1], plan, prompt.spans)], [prompt])
        position = prompt.next_position
        seen: list[torch.Tensor] = []

        def step() -> torch.Tensor:
            nonlocal position
            logits = runner.decode(slots, range(1, 1 + count), [position] * count)
            position += 1
            return logits

        for _ in range(_STEPS):
            seen.append(step().clone())
        return torch.stack(seen), step_milliseconds(step, device)
    finally:
        for slot in slots:
            cache.release(slot)
