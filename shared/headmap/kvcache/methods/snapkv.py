"""SnapKV (arXiv 2404.14469): every head has the same budget; the window's attention selects the tokens."""

from __future__ import annotations

from headmap.budgets import BudgetRule, Ints, uniform_budgets
from headmap.head_scores import HeadScores
from headmap.kvcache.methods.base import Method
from headmap.kvcache.shape import CacheShape


class SnapKV(Method):
    name = "snapkv"

    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        return uniform_budgets(shape.num_layers, shape.num_kv_heads, rule.budget, prompt_tokens)
