"""The allocation `paper`: SparseMM's formula as it is published (section 3.2, eq. 3 to 5) and as its code rounds it.

It may give a head more than the prompt holds, and that surplus is lost.
"""

from __future__ import annotations

import numpy as np

from headmap.budgets.rule import BudgetRule, Floats, Ints


def paper_budgets(scores: Floats, rule: BudgetRule, prompt_tokens: int) -> Ints:
    """Budgets by the published formula, which does not know `prompt_tokens`."""
    rest = (rule.budget - rule.window - rule.floor) * scores.size
    # rint rounds halves to even, as Python's round in the public code
    return np.rint(scores * rest + rule.floor).astype(np.int64) + rule.window
