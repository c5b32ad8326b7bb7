"""Transformers' own caches with sdpa: DynamicCache, which grows, and StaticCache, which can be compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from benchmarks.contenders.case import Case, Contender


class TransformersCache(Contender):
    def __init__(self, model: PreTrainedModel, cache: Cache, decode: Callable[..., object] | None = None) -> None:
        self._model, self._cache = model, cache
        self._decode = decode or model.forward
        renamed = "cache" in signature(model.forward).parameters  # in transformers 5.24; kvpress requires an older one
        self._held = {"cache" if renamed else "past_key_values": cache}

    def prefill(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tokens = inputs["input_ids"]
        return self._run(self._model.forward, inputs, torch.arange(tokens.shape[1], device=tokens.device))

    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        return self._run(self._decode, {"input_ids": tokens[:, None]}, torch.tensor([position], device=tokens.device))

    def _run(
        self, forward: Callable[..., object], inputs: Mapping[str, torch.Tensor], positions: torch.Tensor
    ) -> torch.Tensor:
        positions = positions.expand(len(inputs["input_ids"]), -1)
        output = forward(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1, **self._held)
        logits: torch.Tensor = output.logits  # type: ignore[attr-defined]  # ModelOutput's fields are untyped
        return logits[:, -1].argmax(-1)

    @property
    def kv_bytes(self) -> int:
        layers: list[Any] = self._cache.layers
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def dynamic(model: PreTrainedModel, case: Case) -> Contender:
    del case
    model.set_attn_implementation("sdpa")
    return TransformersCache(model, DynamicCache())


def static(model: PreTrainedModel, case: Case) -> Contender:
    """Room for the prompt and every step; `case.graphs`: the step compiled as transformers' `generate` compiles it."""
    model.set_attn_implementation("sdpa")
    room = case.prompt_tokens + case.settle + case.steps
    cache = StaticCache(config=model.config, max_cache_len=room)
    compiled = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False) if case.graphs else None
    return TransformersCache(model, cache, compiled)
