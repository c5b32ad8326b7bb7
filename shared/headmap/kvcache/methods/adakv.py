"""AdaKV (arXiv 2407.11550): each prompt's attention decides how a layer's tokens are divided over its heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headmap.budgets import BudgetRule, Ints, uniform_budgets, water_fill
from headmap.head_scores import HeadScores
from headmap.kvcache.methods.base import Method
from headmap.kvcache.shape import CacheShape

if TYPE_CHECKING:
    import torch

SAFEGUARD = 0.2
"""The share of the average budget that every head keeps independent of its attention (section 3.3)."""


class AdaKV(Method):
    name = "adakv"
    decides_per_prompt = True

    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        return uniform_budgets(shape.num_layers, shape.num_kv_heads, rule.budget, prompt_tokens)

    def head_budgets(self, scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
        import torch

        heads, candidates = scores.shape
        total = int(budgets.sum())
        top = scores.flatten().topk(min(total, scores.numel())).indices
        wins = torch.bincount(top // candidates, minlength=heads).double()
        wanted = (1 - SAFEGUARD) * wins + SAFEGUARD * total / heads
        shares = water_fill(wanted.cpu().numpy(), total, cap=candidates)
        return budgets.new_tensor(shares)
