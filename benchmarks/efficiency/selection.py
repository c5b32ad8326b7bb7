"""What choosing a layer's tokens costs, by selector, beside the prefill of the layer without any choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.efficiency.equal_bytes import models
from benchmarks.report import Recorder, in_turn, milliseconds, ratios
from benchmarks.shapes import GQA, MHA, Shape
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.select import SELECTORS, Select
from headmap.kvcache.selection import Observed, keep_tokens
from headmap.kvcache.transformers.generate import cache_shape

BUDGET = 256


def measure(
    record: Recorder,
    *,
    shapes: Sequence[Shape] = (GQA, MHA),
    prompts: Sequence[int] = (1024, 4096),
    repeats: int = 15,
) -> None:
    layers = [replace(shape, num_layers=1) for shape in shapes]
    for (model, place), prompt_tokens in product(models(layers), prompts):
        for row in selection(model, prompt_tokens, max(5, repeats // 2)):
            said = f"{place['dtype']}  {place['shape']}  {prompt_tokens} tokens  {row['select']}"
            record.add({"what": "selection", **place, **row}, f"{said}  {row['ratio']:.1%} of a layer's prefill")


@torch.inference_mode()
def selection(model: PreTrainedModel, prompt_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each selector: milliseconds of its choice, and their share of the layer's prefill, in the same run."""
    shape = cache_shape(model)
    keys = torch.randn(shape.num_kv_heads, prompt_tokens, shape.head_dim, dtype=model.dtype)
    queries = torch.randn(model.config.num_attention_heads, prompt_tokens, shape.head_dim, dtype=model.dtype)
    budgets = torch.full((shape.num_kv_heads,), BUDGET)
    tokens = torch.randint(0, 1000, (1, prompt_tokens))

    def choose(select: Select) -> None:
        recent, window = KVRequest("snapkv", budget=BUDGET, select=select).recent(BUDGET)
        used = select.settled(window)
        seen = Observed(queries[:, -(used.window or 1) :], keys, shape.head_dim**-0.5, recent, used)
        keep_tokens(get_method("snapkv"), seen, budgets)

    variants: dict[str, Callable[[], object]] = {name: partial(choose, select) for name, select in SELECTORS.items()}
    seconds = in_turn({"layer": partial(model.model, input_ids=tokens, use_cache=False), **variants}, repeats)
    return [
        {
            "select": name, "prompt_tokens": prompt_tokens, "selection_ms": milliseconds(seconds[name]),
            "layer_ms": milliseconds(seconds["layer"]), **ratios(seconds, name, "layer"),
        }
        for name in variants
    ]  # fmt: skip
