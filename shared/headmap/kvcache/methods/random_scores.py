"""The control method: SparseMM's formula with random scores (SparseMM, section 4.3)."""

from __future__ import annotations

import hashlib

import numpy as np

from headmap.budgets import BudgetRule, Ints, allocate_budgets
from headmap.head_scores import HeadScores
from headmap.kvcache.methods.base import Method
from headmap.kvcache.shape import CacheShape


class RandomScores(Method):
    """Scores are drawn once for all layers. The model's shape is the seed, so outputs are reproducible."""

    name = "random"

    def budgets(self, shape: CacheShape, rule: BudgetRule, prompt_tokens: int, scores: HeadScores | None) -> Ints:
        key = f"{shape.num_layers}x{shape.num_kv_heads}x{shape.head_dim}".encode()
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
        drawn = generator.random((shape.num_layers, shape.num_kv_heads))
        return allocate_budgets(drawn / drawn.sum(), rule, prompt_tokens)
