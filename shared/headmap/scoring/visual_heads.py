"""Compute scores from where heads looked (SparseMM section 3.1, equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from headmap.looks import PageLooks


@dataclass(frozen=True)
class PageScores:
    """One page's scores, (num_layers, num_heads) float64, the data behind them, and `looks` if requested."""

    scores: npt.NDArray[np.float64]
    tokens_seen: int
    tokens_matched: int
    hits: int
    looks: PageLooks | None = None


def page_hits(winners: npt.NDArray[np.int64], regions: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
    """Find the heads that looked at the word being read, for each token.

    `winners`: (layers, heads, tokens), the prompt position with each head's highest attention when the model predicted
    a token. `regions`: for each token, the positions of the prompt's tokens that show its word. Returns (layers,
    heads, tokens).
    """
    hits = np.zeros(winners.shape, dtype=np.bool_)
    for token, region in enumerate(regions):
        hits[:, :, token] = np.isin(winners[:, :, token], region)
    return hits


def page_scores(hits: npt.NDArray[np.bool_], regions: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
    """Score every head on one page. A hit in a region counts 1 / |region|. Returns (layers, heads) float64."""
    scores = np.zeros(hits.shape[:2])
    for token, region in enumerate(regions):
        scores += hits[:, :, token] / len(region)
    return scores
