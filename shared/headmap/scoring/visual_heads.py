"""From where heads looked to scores (SparseMM section 3.1, equations 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def page_scores(
    winners: npt.NDArray[np.int64], regions: Sequence[npt.NDArray[np.int64]]
) -> tuple[npt.NDArray[np.float64], int]:
    """Score every head on one page.

    `winners`: (layers, heads, tokens), the prompt position each head looked at most when it predicted a token.
    `regions`: for each token, the positions of the visual tokens that show its word. A head whose winner lies in the
    region scores 1 / |region|. Returns (layers, heads) float64 and the number of hits.
    """
    scores = np.zeros(winners.shape[:2])
    hits = 0
    for token, region in enumerate(regions):
        hit = np.isin(winners[:, :, token], region)
        scores += hit / len(region)
        hits += int(hit.sum())
    return scores, hits
