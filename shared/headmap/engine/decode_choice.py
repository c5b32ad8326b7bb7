"""How decode steps run: which backend attends, whether CUDA graphs replay them, whether torch compiles their layers.

Trials decide when the engine is made, each against results known to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from headmap.device_errors import is_broken_device
from headmap.engine.graphs import Capture
from headmap.engine.runner import ModelRunner
from headmap.errors import DeviceFailed, Unavailable
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
from headmap.kvcache.transformers.prefill import Prompt

Mode = Literal["auto", "on", "off"]
ON, OFF = "on", "off"

_PROMPT = "A made-up prompt, for steps that are looked at and forgotten."
_STEPS = 3
_SEQUENCES = (1, 3)
"""Sequences in a trial step. Compiled layers have separate code for one sequence. A graph for three has four places,
so the trial also covers the idle slot that fills the last place.
"""
_STEP_ERROR = 16
"""Times what rounding may cost one layer: it grows from layer to layer."""


@dataclass(frozen=True)
class DecodeChoice:
    """Trial results: `attention` of decode backends; `graphs` of steps with CUDA graphs ("on") and without ("off");
    `compiled` of graphs of compiled layers and of graphs without.
    """

    attention: Choice
    graphs: Choice
    compiled: Choice

    def __str__(self) -> str:
        return f"attention by {self.attention}; CUDA graphs {self.graphs}; compiled layers {self.compiled}"


def choose_attention(name: str, loaded: LoadedModel) -> Choice:
    """Raises Unavailable if the named candidate gives wrong results for the model on this machine, or all do."""
    shape = loaded.cache_shape
    group = loaded.info.num_heads // loaded.info.num_kv_heads
    try:
        return choose_backend(name, shape, dtype=loaded.model.dtype, device=loaded.device, group=group)
    except Unavailable as error:
        raise Unavailable(f"HEADMAP_DECODE_BACKEND={name}: {error.detail}") from error


def choose_graphs(
    mode: Mode, plain: ModelRunner, make_capture: Callable[[], Capture] | None
) -> tuple[Choice, ModelRunner]:
    """Whether graphs replay steps, and the runner for them. `make_capture`: None if the device has no graphs.

    "auto" replays if that is right and faster than `plain`; "on" raises Unavailable if it is not right.
    """
    backend = plain.cache.backend
    missing = None if backend.capturable else f"backend {backend.name} cannot be captured"
    if make_capture is None:
        missing = f"{plain.cache.pool.device.type} has none"
    make = partial(_graphed, plain, make_capture)
    return _choose("HEADMAP_CUDA_GRAPHS", mode, missing, plain, make)


def choose_compiled(
    mode: Mode, graphed: ModelRunner, make_capture: Callable[[], Capture] | None
) -> tuple[Choice, ModelRunner]:
    """Whether torch compiles the layers of replayed steps, and the runner for them; see `choose_graphs`."""
    missing = "steps are no graphs" if graphed.graphed is None else None
    make = partial(_graphed, graphed, make_capture, compiled=True)
    return _choose("HEADMAP_COMPILE_LAYERS", mode, missing, graphed, make)


def _graphed(like: ModelRunner, make_capture: Callable[[], Capture] | None, *, compiled: bool = False) -> ModelRunner:
    return ModelRunner(like.loaded, like.cache, capture=make_capture and make_capture(), compiled=compiled)


def _choose(
    setting: str, mode: Mode, missing: str | None, before: ModelRunner, make: Callable[[], ModelRunner]
) -> tuple[Choice, ModelRunner]:
    """Choose between the runner `before` and one from `make`. `missing`: why there can be no other runner, or None."""
    reason = "not asked for" if mode == OFF else missing
    tried: tuple[Tried, ...] = (Tried(ON, reason=reason),)
    if reason is None:
        tried, runner = _try(before, make)
        choice = Choice(ON, tried)
        if runner is not None and tried[0].right and (mode == ON or (choice.gain or 0.0) > 1):
            return choice, runner
        reason = tried[0].reason
    if mode == ON:
        raise Unavailable(f"{setting}=on: {reason}")
    return Choice(OFF, tried), before


def _try(before: ModelRunner, make: Callable[[], ModelRunner]) -> tuple[tuple[Tried, Tried], ModelRunner | None]:
    """Run the same few steps by both runners. Returns the results of the made runner and of `before`."""
    error, before_ms, own_ms = 0.0, 0.0, 0.0
    try:
        runner = make()
        for count in _SEQUENCES:
            if count <= before.cache.books.slots:
                expected, before_ms = _run_steps(before, count)
                logits, own_ms = _run_steps(runner, count)
                error = max(error, worst_error(logits, expected.double()))
    except Exception as raised:
        if is_broken_device(raised):
            raise DeviceFailed("a made-up step broke the device") from raised
        return (Tried(ON, reason=failure(raised)), Tried(OFF)), None
    bound = _STEP_ERROR * error_bound(before.loaded.model.dtype)
    reason = None if error <= bound else f"wrong by {error:.1e}, at most {bound:.1e} is right"
    if runner.graphed is not None and not runner.graphed.replayed:
        reason = "no memory for a graph"
    return (Tried(ON, error, own_ms, reason), Tried(OFF, 0.0, before_ms)), runner


def _run_steps(runner: ModelRunner, count: int) -> tuple[torch.Tensor, float]:
    """Logits (steps, count, vocab) of steps with given tokens, and milliseconds of one more step, run many times."""
    cache, prompt = runner.cache, runner.loaded.prepare_text(_PROMPT)
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
        return torch.stack(seen), step_milliseconds(step, runner.loaded.device)
    finally:
        for slot in slots:
            cache.release(slot)
