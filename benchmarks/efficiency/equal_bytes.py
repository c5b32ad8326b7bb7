"""What a decode step and a prefill cost: ours on the ragged cache against transformers' DynamicCache with sdpa.

Both decode with the same weights and the same bytes of keys and values: an average budget of B tokens a head, skewed
as published (5 % of the heads hold 55 % of the score), against a prompt of B tokens. Random weights, a text model of
about half a billion parameters; the two are measured in turn, and every figure is a ratio of the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from benchmarks.report import Recorder, bfloat16_unit, in_turn, isa, milliseconds, ratios
from benchmarks.shapes import GQA, MHA, Shape, build
from benchmarks.skew import published_skew
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.attention import ATTENTION, use_headmap_attention, with_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.generate import cache_shape
from headmap.kvcache.transformers.prefill import Prompt

PROMPT_PER_BUDGET = 8
"""The prompt that was compressed is this many times the budget, so that long heads have room to be long."""
NEW_TOKENS = 64
"""Steps that a filled cache has pages for."""


def measure_decode(
    record: Recorder,
    *,
    shapes: Sequence[Shape] = (GQA, MHA),
    budgets: Sequence[int] = (256, 1024),
    batches: Sequence[int] = (1, 8),
    repeats: int = 15,
) -> None:
    for model, place in models(shapes):
        for batch, budget in product(batches, budgets):
            row = {"what": "decode", **place, "batch": batch, "budget": budget, **decode(model, batch, budget, repeats)}
            record.add(row, f"{_said(place)}  batch {batch}  B {budget}  decode x{row['ratio']:.2f}")


def measure_prefill(record: Recorder, *, shapes: Sequence[Shape] = (GQA, MHA), repeats: int = 15) -> None:
    for model, place in models(shapes):
        row = {"what": "prefill", **place, "batch": 1, "budget": 256, **prefill(model, 1024, 256, max(5, repeats))}
        record.add(row, f"{_said(place)}  1024 tokens  prefill x{row['ratio']:.2f}")


def _said(place: dict[str, str]) -> str:
    return f"{place['dtype']}  {place['shape']}"


def models(shapes: Sequence[Shape] = (GQA, MHA)) -> Iterator[tuple[PreTrainedModel, dict[str, str]]]:
    """A model of each shape, and its description in the rows; also in bfloat16, where the CPU has a unit for it."""
    has_bfloat16 = isa() == "native" and bfloat16_unit() is not None
    for dtype, shape in product(("float32", "bfloat16") if has_bfloat16 else ("float32",), shapes):
        yield build(shape, getattr(torch, dtype)), {"shape": shape.name, "dtype": dtype, "isa": isa()}


@torch.inference_mode()
def decode(model: PreTrainedModel, batch: int, budget: int, repeats: int) -> dict[str, Any]:
    """A whole model step with each cache, in turn."""
    shape = cache_shape(model)
    dense = filled_dense(shape, batch, budget, model.dtype)
    dense_bytes = batch * shape.full_tokens(budget) * shape.token_bytes
    ragged = filled_ragged(model, shape, batch, budget)
    kept = ragged.pool.held_bytes
    tokens = torch.randint(0, 1000, (batch, 1))
    position = PROMPT_PER_BUDGET * budget

    def step_dense() -> None:
        model.set_attn_implementation("sdpa")
        positions = torch.full((batch, 1), position)
        model.model(input_ids=tokens, position_ids=positions, use_cache=True, **with_cache(model.model, dense))

    def step_ours() -> None:
        model.set_attn_implementation(ATTENTION)
        positions = torch.full((batch, 1), position)
        with ragged.step(range(batch)) as step:
            held = with_cache(model.model, step)
            model.model(input_ids=tokens, position_ids=positions, use_cache=True, **held)

    use_headmap_attention(model)
    seconds = in_turn({"ours": step_ours, "dense": step_dense}, repeats)
    return {
        "ours_ms": milliseconds(seconds["ours"]), "dense_ms": milliseconds(seconds["dense"]),
        "kv_bytes": kept, "dense_bytes": dense_bytes, **ratios(seconds, "ours", "dense"),
    }  # fmt: skip


def filled_dense(shape: CacheShape, batch: int, tokens: int, dtype: torch.dtype = torch.float32) -> DynamicCache:
    cache = DynamicCache()
    for layer_idx in range(shape.num_layers):
        size = (batch, shape.num_kv_heads, tokens, shape.head_dim)
        cache.update(torch.randn(size, dtype=dtype), torch.randn(size, dtype=dtype), layer_idx)
    return cache


def filled_ragged(model: PreTrainedModel, shape: CacheShape, batch: int, budget: int) -> RaggedCache:
    """A cache of `batch` sequences, each with the budgets of a prompt of PROMPT_PER_BUDGET x budget tokens."""
    scores = published_skew(shape.num_layers, model.config.num_attention_heads, shape.num_kv_heads)
    prompt_tokens = PROMPT_PER_BUDGET * budget
    plan = plan_cache(KVRequest("sparsemm", budget=budget), shape, prompt_tokens, scores)
    cache = RaggedCache.for_plans([plan] * batch, NEW_TOKENS, shape, dtype=model.dtype, device=torch.device("cpu"))
    for tensor in (cache.pool.keys, cache.pool.values):
        tensor.normal_()
    for _ in range(batch):
        slot = cache.admit(plan)
        for layer_idx in range(shape.num_layers):
            cache.books.place(slot, layer_idx, plan.tokens[layer_idx])
        cache.books.seal(slot)
    return cache


@torch.inference_mode()
def prefill(model: PreTrainedModel, prompt_tokens: int, budget: int, repeats: int) -> dict[str, Any]:
    """A prompt through the model with our cache, selection included, and with its own."""
    shape = cache_shape(model)
    scores = published_skew(shape.num_layers, model.config.num_attention_heads, shape.num_kv_heads)
    plan = plan_cache(KVRequest("sparsemm", budget=budget), shape, prompt_tokens, scores)
    tokens = torch.randint(0, 1000, (1, prompt_tokens))
    positions = torch.arange(prompt_tokens)[None]

    cache = RaggedCache.for_plans([plan], 1, shape, dtype=model.dtype, device=torch.device("cpu"))

    def ours() -> None:
        model.set_attn_implementation(ATTENTION)
        slot = cache.admit(plan)
        view = cache.prefill([Prompt(slot, plan)])
        model.model(input_ids=tokens, position_ids=positions, use_cache=True, **with_cache(model.model, view))
        view.done()
        cache.release(slot)

    def dense() -> None:
        model.set_attn_implementation("sdpa")
        held = with_cache(model.model, DynamicCache())
        model.model(input_ids=tokens, position_ids=positions, use_cache=True, **held)

    use_headmap_attention(model)
    seconds = in_turn({"ours": ours, "dense": dense}, repeats, warmup=1)
    return {
        "prompt_tokens": prompt_tokens, "ours_ms": milliseconds(seconds["ours"]),
        "dense_ms": milliseconds(seconds["dense"]), **ratios(seconds, "ours", "dense"),
    }  # fmt: skip
