"""The request to an allocation: budget, observation window and uniform part (SparseMM section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from headmap.errors import BudgetTooSmall, InvalidParameter

Allocation = Literal["exact", "paper"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DEFAULT_WINDOW = 32
DEFAULT_UNIFORM = 0.1


def resolve_budget(prompt_tokens: int, budget: int | None, ratio: float | None) -> int:
    """How many tokens a KV head keeps on average: `budget` itself, or the share `ratio` of the prompt, rounded down.

    A ratio never asks for less than one token. Raises BudgetTooSmall for a budget below 1, and InvalidParameter if
    both or neither is given, or where the ratio lies outside (0, 1].
    """
    if (budget is None) == (ratio is None):
        raise InvalidParameter("kv: give exactly one of budget and ratio", param="kv.budget")
    if budget is not None:
        if budget < 1:
            raise BudgetTooSmall(f"kv.budget: must be at least 1 token per head, got {budget}", param="kv.budget")
        return budget
    if ratio is None or not 0 < ratio <= 1:  # NaN fails the comparison too
        raise InvalidParameter(f"kv.ratio: must be above 0 and at most 1, got {ratio}", param="kv.ratio")
    # 0.29 * 100 is 28.999...; a hair more restores the intended share
    return max(1, math.floor(ratio * prompt_tokens + 1e-9))


def resolve_window(budget: int, window: int | None) -> int:
    """The observation window in tokens: `window` itself, or min(32, budget // 2) where it is None.

    Raises InvalidParameter for a negative window, and BudgetTooSmall for one that leaves no token of the budget.
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


def resolve_recent(budget: int, window: int | None, keep_recent: int | None) -> tuple[int, int]:
    """How many of a prompt's last tokens every head keeps, and how many observe.

    Both are `window`, as `resolve_window` has it; `keep_recent` sets the first apart from it, and `window` may then be
    as large as it likes. Raises as `resolve_window` does.
    """
    if keep_recent is None:
        window = resolve_window(budget, window)
        return window, window
    if keep_recent < 0:
        raise InvalidParameter(f"kv.keep_recent: must be at least 0, got {keep_recent}", param="kv.keep_recent")
    if keep_recent >= budget:
        raise BudgetTooSmall(
            f"kv.keep_recent: must be below the budget of {budget} tokens per head, got {keep_recent}",
            param="kv.keep_recent",
        )
    if window is not None and window < 0:
        raise InvalidParameter(f"kv.window: must be at least 0, got {window}", param="kv.window")
    return keep_recent, resolve_window(budget, None) if window is None else window


@dataclass(frozen=True)
class BudgetRule:
    """The parameters of an allocation (SparseMM, section 3.2).

    `budget`: tokens per KV head on average, at least 1. `window`: how many of the prompt's last tokens every head
    keeps, below `budget`. `uniform`: the paper's rho, the share of budget - window that all heads get alike, 0 to 1;
    the scores decide over the rest. `allocation`: `exact`, whose totals hold to the token, or `paper`, the published
    formula.

    Raises BudgetTooSmall, or InvalidParameter where `uniform` or `allocation` is at fault.
    """

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
            raise InvalidParameter(f"kv.uniform: must be from 0 to 1, got {self.uniform}", param="kv.uniform")
        if self.allocation not in (known := get_args(Allocation)):
            names = " or ".join(f'"{name}"' for name in known)
            raise InvalidParameter(f"kv.allocation: must be {names}, got {self.allocation!r}", param="kv.allocation")

    @property
    def floor(self) -> int:
        """The uniform part: tokens that every head keeps beside its window."""
        return int((self.budget - self.window) * self.uniform)
