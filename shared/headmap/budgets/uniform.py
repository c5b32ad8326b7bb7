"""The same budget for every head: for methods without scores."""

from __future__ import annotations

import numpy as np

from headmap.budgets.rule import Ints


def uniform_budgets(num_layers: int, num_kv_heads: int, budget: int, prompt_tokens: int) -> Ints:
    """The same number of tokens for every KV head, min(budget, prompt_tokens): (num_layers, num_kv_heads) int64."""
    return np.full((num_layers, num_kv_heads), min(budget, prompt_tokens), dtype=np.int64)
