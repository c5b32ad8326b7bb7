"""How many tokens each KV head keeps: integers, decided before any tensor exists (SparseMM section 3.2, eq. 3 to 5).

Every head keeps the observation window, a uniform part of the rest, and a part by its score. `rule` has the parameters;
each allocation, one file, turns scores and a rule into integers. Knows numpy, and no torch.
"""

from headmap.budgets.allocate import ALLOCATIONS, allocate_budgets
from headmap.budgets.exact import water_fill
from headmap.budgets.rule import (
    DEFAULT_UNIFORM,
    DEFAULT_WINDOW,
    Allocation,
    BudgetRule,
    Floats,
    Ints,
    resolve_budget,
    resolve_recent,
    resolve_window,
)
from headmap.budgets.uniform import uniform_budgets

__all__ = [
    "ALLOCATIONS",
    "DEFAULT_UNIFORM",
    "DEFAULT_WINDOW",
    "Allocation",
    "BudgetRule",
    "Floats",
    "Ints",
    "allocate_budgets",
    "resolve_budget",
    "resolve_recent",
    "resolve_window",
    "uniform_budgets",
    "water_fill",
]
