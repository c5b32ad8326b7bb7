"""A head map as concentrated as the published one."""

from __future__ import annotations

import numpy as np

from headmap.head_scores import HeadScores


def published_skew(num_layers: int, num_heads: int, num_kv_heads: int) -> HeadScores:
    """Scores whose top 5 % of query heads hold 55 %, as in the published LLaVA-v1.6-7B file."""
    rank = np.arange(1.0, num_layers * num_heads + 1)
    low, high = 0.1, 3.0
    for _ in range(60):  # the exponent of a power law, by bisection
        exponent = (low + high) / 2
        held = HeadScores((rank**-exponent)[None, :].astype(np.float64), 1).top_share(0.05)
        low, high = (exponent, high) if held < 0.55 else (low, exponent)
    scores = np.random.default_rng(0).permutation(rank**-exponent)
    return HeadScores(scores.reshape(num_layers, num_heads).astype(np.float64), num_kv_heads)
