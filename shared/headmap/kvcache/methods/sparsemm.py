"""SparseMM (arXiv 2506.05344): heads that look at the picture keep more tokens than other heads."""

from __future__ import annotations

from headmap.budgets import BudgetRule, Ints, allocate_budgets
from headmap.errors import NoMapForModel
from headmap.head_scores import HeadScores
from headmap.kvcache.methods.base import Method
from headmap.kvcache.shape import CacheShape


class SparseMM(Method):
    name = "sparsemm"
    needs_scores = True

    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        if scores is None:
            raise NoMapForModel("kv.method: sparsemm needs a head map, and this model has none", param="kv.method")
        return allocate_budgets(scores.per_kv_head(), rule, prompt_tokens)
