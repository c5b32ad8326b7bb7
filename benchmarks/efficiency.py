"""What a decode step and a prefill cost: ours on the ragged cache against transformers' DynamicCache with sdpa.

Both decode with the same weights and the same bytes of keys and values: an average budget of B tokens a head, skewed
as published (5 % of the heads hold 55 % of the score), against a prompt of B tokens. Random weights, a text model of
about half a billion parameters; the two are measured in turn, and every figure is a ratio of the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.report import document, in_turn, milliseconds, ratios
from headmap.head_scores import HeadScores
from headmap.kvcache.attention import ATTENTION, use_headmap_attention
from headmap.kvcache.cache import BLOCK_SIZE, RaggedCache
from headmap.kvcache.generate import cache_shape
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import CacheShape, KVRequest, plan_cache

PROMPT_PER_BUDGET = 8
"""The prompt that was compressed is this many times the budget, so that long heads have room to be long."""


@dataclass(frozen=True)
class Shape:
    """A text model's shape; head_dim is 64 in all."""

    name: str
    num_heads: int
    num_kv_heads: int
    num_layers: int
    intermediate: int


GQA = Shape("GQA, 14 query and 2 KV heads", 14, 2, 24, 4864)
MHA = Shape("MHA, 16 heads", 16, 16, 24, 4096)


def run(
    *,
    shapes: Sequence[Shape] = (GQA, MHA),
    budgets: Sequence[int] = (256, 1024),
    batches: Sequence[int] = (1, 8),
    repeats: int = 15,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        model = build(shape)
        for batch in batches:
            for budget in budgets:
                row = {"what": "decode", "shape": shape.name, "batch": batch, "budget": budget}
                rows.append(row | decode(model, batch, budget, repeats))
                progress(f"{shape.name}  batch {batch}  B {budget}  decode x{rows[-1]['ratio']:.2f}")
        row = {"what": "prefill", "shape": shape.name, "batch": 1, "budget": 256}
        rows.append(row | prefill(model, 1024, 256, max(3, repeats // 5)))
        progress(f"{shape.name}  1024 tokens  prefill x{rows[-1]['ratio']:.2f}")
    return document("efficiency", {"repeats": repeats, "block_size": BLOCK_SIZE, "dtype": "float32"}, rows)


def build(shape: Shape) -> PreTrainedModel:
    """Random weights of the given shape; a small vocabulary, since the head is the same for both sides."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64 * shape.num_heads,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        vocab_size=32_000,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval()


def published_skew(num_layers: int, num_heads: int, num_kv_heads: int) -> HeadScores:
    """Scores whose top 5 % of query heads hold 55 %, as in the published LLaVA-v1.6-7B file."""
    rank = np.arange(1.0, num_layers * num_heads + 1)
    low, high = 0.1, 3.0
    for _ in range(60):  # the exponent of a power law, by bisection
        exponent = (low + high) / 2
        held = HeadScores((rank**-exponent)[None, :].astype(np.float64), 1).top_share(0.05)
        low, high = (exponent, high) if held < 0.55 else (low, exponent)
    scores = np.random.default_rng(0).permutation(rank**-exponent)
    return HeadScores(scores.reshape(num_layers, num_heads).astype(np.float64), num_kv_heads)


@torch.inference_mode()
def decode(model: PreTrainedModel, batch: int, budget: int, repeats: int) -> dict[str, Any]:
    """A whole model step with each cache, in turn."""
    shape = cache_shape(model)
    dense = filled_dense(shape, batch, budget)
    ragged = filled_ragged(model, shape, batch, budget)
    held = sum(ragged.tokens(slot) for slot in range(batch)) * shape.token_bytes
    tokens = torch.randint(0, 1000, (batch, 1))
    position = PROMPT_PER_BUDGET * budget

    def step_dense() -> None:
        model.set_attn_implementation("sdpa")
        positions = torch.full((batch, 1), position)
        model.model(input_ids=tokens, position_ids=positions, past_key_values=dense, use_cache=True)

    def step_ours() -> None:
        model.set_attn_implementation(ATTENTION)
        positions = torch.full((batch, 1), position)
        model.model(
            input_ids=tokens, position_ids=positions, past_key_values=ragged.decode(range(batch)), use_cache=True
        )

    use_headmap_attention(model)
    seconds = in_turn({"ours": step_ours, "dense": step_dense}, repeats)
    return {
        "ours_ms": milliseconds(seconds["ours"]), "dense_ms": milliseconds(seconds["dense"]),
        "kv_bytes": held, "allocated_bytes": ragged.allocated_bytes, **ratios(seconds, "ours", "dense"),
    }  # fmt: skip


def filled_dense(shape: CacheShape, batch: int, tokens: int) -> DynamicCache:
    cache = DynamicCache()
    for layer_idx in range(shape.num_layers):
        size = (batch, shape.num_kv_heads, tokens, shape.head_dim)
        cache.update(torch.randn(size), torch.randn(size), layer_idx)
    return cache


def filled_ragged(model: PreTrainedModel, shape: CacheShape, batch: int, budget: int) -> RaggedCache:
    """A cache of `batch` sequences, each with the budgets of a prompt of PROMPT_PER_BUDGET x budget tokens."""
    scores = published_skew(shape.num_layers, model.config.num_attention_heads, shape.num_kv_heads)
    prompt_tokens = PROMPT_PER_BUDGET * budget
    plan = plan_cache(KVRequest("sparsemm", budget=budget), get_method("sparsemm"), shape, prompt_tokens, scores)
    cache = RaggedCache(shape, dtype=torch.float32, device=torch.device("cpu"))
    for _ in range(batch):
        prompt = cache.prefill(cache.admit(cache.reservation(plan, 64)), plan)
        for layer_idx in range(shape.num_layers):
            budgets = torch.from_numpy(plan.tokens[layer_idx])
            keep = torch.arange(prompt_tokens) < budgets[:, None]
            keys = torch.randn(shape.num_kv_heads, prompt_tokens, shape.head_dim)
            prompt.store(layer_idx, keys, keys, keep)
    return cache


@torch.inference_mode()
def prefill(model: PreTrainedModel, prompt_tokens: int, budget: int, repeats: int) -> dict[str, Any]:
    """A prompt through the model with our cache, selection included, and with its own."""
    shape = cache_shape(model)
    scores = published_skew(shape.num_layers, model.config.num_attention_heads, shape.num_kv_heads)
    plan = plan_cache(KVRequest("sparsemm", budget=budget), get_method("sparsemm"), shape, prompt_tokens, scores)
    tokens = torch.randint(0, 1000, (1, prompt_tokens))
    positions = torch.arange(prompt_tokens)[None]

    def ours() -> None:
        model.set_attn_implementation(ATTENTION)
        cache = RaggedCache(shape, dtype=torch.float32, device=torch.device("cpu"))
        view = cache.prefill(cache.admit(cache.reservation(plan, 0)), plan)
        model.model(input_ids=tokens, position_ids=positions, past_key_values=view, use_cache=True)

    def dense() -> None:
        model.set_attn_implementation("sdpa")
        model.model(input_ids=tokens, position_ids=positions, past_key_values=DynamicCache(), use_cache=True)

    use_headmap_attention(model)
    seconds = in_turn({"ours": ours, "dense": dense}, repeats, warmup=1)
    return {
        "prompt_tokens": prompt_tokens, "ours_ms": milliseconds(seconds["ours"]),
        "dense_ms": milliseconds(seconds["dense"]), **ratios(seconds, "ours", "dense"),
    }  # fmt: skip
