"""PyramidKV (arXiv 2406.02069): early layers keep more tokens than late layers; a layer's heads keep equally many."""

from __future__ import annotations

import numpy as np

from headmap.budgets import BudgetRule, Ints, water_fill
from headmap.head_scores import HeadScores
from headmap.kvcache.methods.base import Method
from headmap.kvcache.shape import CacheShape

BETA = 20
"""The last layer keeps its window and 1/BETA of the average (section 4.2)."""


class PyramidKV(Method):
    """Budgets fall linearly over the layers. Heads of a layer differ by at most one token, which makes totals exact.

    Where the first layer would keep more than the prompt, it keeps the prompt, and the last layer keeps more, so that
    the budgets still fall linearly and late layers do not starve.
    """

    name = "pyramidkv"

    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        average, most = rule.budget - rule.window, prompt_tokens - rule.window
        first = min((2 - 1 / BETA) * average, most) if shape.num_layers > 1 else average
        per_layer = np.linspace(first, 2 * average - first, shape.num_layers)
        weights = np.repeat(per_layer, shape.num_kv_heads)
        tokens = water_fill(weights, average * weights.size, cap=most)
        return rule.window + tokens.reshape(shape.num_layers, shape.num_kv_heads)
