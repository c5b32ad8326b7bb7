"""The reference method: every head keeps every token."""

from __future__ import annotations

import numpy as np

from headmap.budgets import BudgetRule, Ints
from headmap.head_scores import HeadScores
from headmap.kvcache.methods.base import Method
from headmap.kvcache.shape import CacheShape


class Full(Method):
    name = "full"
    needs_budget = False

    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        return np.full((shape.num_layers, shape.num_kv_heads), prompt_tokens, dtype=np.int64)
