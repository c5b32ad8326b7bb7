"""The allocations by name, and a function that runs the allocation of a rule."""

from __future__ import annotations

from collections.abc import Callable

from headmap.budgets.exact import exact_budgets
from headmap.budgets.paper import paper_budgets
from headmap.budgets.rule import Allocation, BudgetRule, Floats, Ints
from headmap.errors import InvalidParameter

ALLOCATIONS: dict[Allocation, Callable[[Floats, BudgetRule, int], Ints]] = {
    "exact": exact_budgets,
    "paper": paper_budgets,
}


def allocate_budgets(scores: Floats, rule: BudgetRule, prompt_tokens: int) -> Ints:
    """Distribute a budget: the tokens that each KV head keeps (SparseMM, section 3.2, eq. 3 to 5).

    `scores`: (num_layers, num_kv_heads) float64, at least 0, summing to 1. Returns the same shape, int64. With `exact`
    the sum is min(budget, prompt_tokens) x num_layers x num_kv_heads, and no head is above prompt_tokens; with `paper`
    the values follow the formula, whatever the prompt's length. Raises InvalidParameter for a prompt without tokens.
    """
    if prompt_tokens < 1:
        raise InvalidParameter(f"prompt_tokens: must be at least 1, got {prompt_tokens}", param="prompt_tokens")
    return ALLOCATIONS[rule.allocation](scores, rule, prompt_tokens)
