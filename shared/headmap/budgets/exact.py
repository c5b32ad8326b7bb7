"""The allocation `exact`: SparseMM's three parts (section 3.2), with totals that hold to the token.

A head is clipped at the prompt, and what it cannot use goes to the others by score.
"""

from __future__ import annotations

import numpy as np

from headmap.budgets.rule import BudgetRule, Floats, Ints


def exact_budgets(scores: Floats, rule: BudgetRule, prompt_tokens: int) -> Ints:
    """Budgets whose sum is min(budget, prompt_tokens) x layers x heads, with no head above prompt_tokens."""
    if rule.budget >= prompt_tokens:
        return np.full(scores.shape, prompt_tokens, dtype=np.int64)
    base = rule.floor + rule.window
    total = (rule.budget - base) * scores.size
    return base + water_fill(scores.ravel(), total, cap=prompt_tokens - base).reshape(scores.shape)


def water_fill(weights: Floats, total: int, cap: int) -> Ints:
    """Distribute `total` whole units in proportion to `weights`, at most `cap` to each (largest remainder).

    `weights`: (n,) float64, at least 0. Returns (n,) int64 that sum to min(total, cap x n). A larger weight never gets
    less. If all remaining weights are 0, the rest is distributed evenly.
    """
    total = min(total, cap * len(weights))
    share = np.zeros(len(weights))
    full = np.zeros(len(weights), dtype=bool)
    while not full.all():
        rest = total - cap * int(full.sum())
        open_weights = np.where(full, 0.0, weights)
        mass = open_weights.sum()
        share = rest * (open_weights / mass) if mass > 0 else np.where(full, 0.0, rest / (~full).sum())
        over = ~full & (share >= cap)
        if not over.any():
            break
        full |= over
    share = np.where(full, cap, share)
    result = np.floor(share).astype(np.int64)
    missing = total - int(result.sum())
    # By remainder, then by weight; a full head takes no more. One round is enough: fewer units are missing than heads.
    order = np.lexsort((-weights, -(share - result)))
    takers = order[result[order] < cap][:missing]
    result[takers] += 1
    return result
