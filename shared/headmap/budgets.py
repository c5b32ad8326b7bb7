"""How many tokens each KV head keeps: integers, decided before any tensor exists (SparseMM section 3.2, eq. 3 to 5).

Every head keeps the observation window, a uniform part of the rest, and a part preferred by its score. `paper` is the
published formula, which promises heads more than the prompt holds and loses the surplus; `exact` clips a head at the
prompt, hands its surplus to the others by score, and lands on min(B, n) x layers x heads to the token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from headmap.errors import BudgetTooSmall, InvalidParameter

Allocation = Literal["exact", "paper"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DEFAULT_WINDOW = 32
DEFAULT_UNIFORM = 0.1


def resolve_budget(prompt_tokens: int, budget: int | None, ratio: float | None) -> int:
    """The average number of tokens a head keeps: `budget` itself, or the share `ratio` of the prompt rounded down.

    A ratio never asks for less than one token. Raises BudgetTooSmall, or InvalidParameter where both or neither is
    given or the ratio lies outside (0, 1].
    """
    if (budget is None) == (ratio is None):
        raise InvalidParameter("kv: give exactly one of budget and ratio", param="kv.budget")
    if budget is not None:
        if budget < 1:
            raise BudgetTooSmall(f"kv.budget: must be at least 1 token per head, got {budget}", param="kv.budget")
        return budget
    if ratio is None or not 0 < ratio <= 1:  # NaN fails the comparison too
        raise InvalidParameter(f"kv.ratio: must be above 0 and at most 1, got {ratio}", param="kv.ratio")
    # 0.29 * 100 is 28.999...; a hair more keeps the share that was meant
    return max(1, math.floor(ratio * prompt_tokens + 1e-9))


def resolve_window(budget: int, window: int | None) -> int:
    """The observation window: min(32, budget // 2) unless asked otherwise.

    Raises InvalidParameter for a negative window or one that leaves no token of the budget.
    """
    if window is None:
        return min(DEFAULT_WINDOW, budget // 2)
    if window < 0:
        raise InvalidParameter(f"kv.window: must be at least 0, got {window}", param="kv.window")
    if window >= budget:
        raise BudgetTooSmall(
            f"kv.window: must be below the budget of {budget} tokens per head, got {window}", param="kv.window"
        )
    return window


@dataclass(frozen=True)
class BudgetRule:
    """The parameters of an allocation. `budget` is tokens per head on average; `uniform` is rho, in 0 to 1."""

    budget: int
    window: int
    uniform: float = DEFAULT_UNIFORM
    allocation: Allocation = "exact"

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise BudgetTooSmall(f"kv.budget: must be at least 1 token per head, got {self.budget}", param="kv.budget")
        if not 0 <= self.window < self.budget:
            raise BudgetTooSmall(
                f"kv.window: must be at least 0 and below the budget of {self.budget}, got {self.window}",
                param="kv.window",
            )
        if not 0 <= self.uniform <= 1:
            raise InvalidParameter(f"kv.uniform: must lie in 0 to 1, got {self.uniform}", param="kv.uniform")
        if self.allocation not in ("exact", "paper"):
            raise InvalidParameter(
                f'kv.allocation: must be "exact" or "paper", got {self.allocation!r}', param="kv.allocation"
            )

    @property
    def floor(self) -> int:
        """The uniform part: tokens that every head keeps beside its window."""
        return int((self.budget - self.window) * self.uniform)


def allocate_budgets(scores: Floats, rule: BudgetRule, prompt_tokens: int) -> Ints:
    """Tokens to keep per KV head.

    `scores`: (num_layers, num_kv_heads), at least 0, summing to 1. Returns the same shape, int64. With `exact` the sum
    is exactly min(budget, prompt_tokens) x layers x heads and no head is above prompt_tokens; with `paper` the values
    are the formula's, whatever the prompt holds.
    """
    if prompt_tokens < 1:
        raise InvalidParameter(f"prompt_tokens: must be at least 1, got {prompt_tokens}", param="prompt_tokens")
    if rule.allocation == "paper":
        return _paper(scores, rule)
    if rule.budget >= prompt_tokens:
        return np.full(scores.shape, prompt_tokens, dtype=np.int64)
    base = rule.floor + rule.window
    total = (rule.budget - base) * scores.size
    return base + water_fill(scores.ravel(), total, cap=prompt_tokens - base).reshape(scores.shape)


def _paper(scores: Floats, rule: BudgetRule) -> Ints:
    rest = (rule.budget - rule.window - rule.floor) * scores.size
    # rint rounds halves to even, as Python's round in the public code
    return np.rint(scores * rest + rule.floor).astype(np.int64) + rule.window


def uniform_budgets(num_layers: int, num_kv_heads: int, budget: int, prompt_tokens: int) -> Ints:
    """The same budget for every head, at most the prompt: (num_layers, num_kv_heads) int64."""
    return np.full((num_layers, num_kv_heads), min(budget, prompt_tokens), dtype=np.int64)


def water_fill(weights: Floats, total: int, cap: int) -> Ints:
    """Share `total` over `weights` in proportion, none above `cap`, to the unit (largest remainder).

    Returns int64 of the shape of `weights` (1-D) with sum min(total, cap x len). A larger weight never gets less.
    Where all that is left weighs 0, it is shared evenly.
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
