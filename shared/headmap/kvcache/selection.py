"""Choose a layer's tokens by their scores, as many of each head as its budget says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from headmap.kvcache.methods.base import Method
from headmap.kvcache.select import SNAPKV, Select
from headmap.kvcache.selectors.attention import observed_attention, pooled
from headmap.kvcache.selectors.mixkv import mixed
from headmap.kvcache.transformers.attention import CAUSAL, PromptMask


@dataclass(frozen=True)
class Observed:
    """The inputs for selecting a layer's tokens.

    `queries`: (num_heads, q, d), those of the prompt's last tokens that observe, after rotary embedding. `keys`:
    (num_kv_heads, n, d), of the whole prompt. `scaling` multiplies the dot products. `recent`: the number of last
    tokens that are always kept. `mask`: which tokens each token sees in the layer.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scaling: float
    recent: int
    select: Select = SNAPKV
    mask: PromptMask = CAUSAL

    @cached_property
    def exact_keys(self) -> torch.Tensor:
        """`keys` in float32, copied once for all that reads them."""
        return self.keys.float()

    @cached_property
    def attention(self) -> torch.Tensor:
        """Pooled attention to each token before the recent ones: (num_kv_heads, n - recent) float32."""
        whole = observed_attention(self.queries, self.exact_keys, self.scaling, self.mask)
        return pooled(whole[:, : self.keys.shape[1] - self.recent], self.select.pool)

    @cached_property
    def scores(self) -> torch.Tensor:
        """The selector's scores of the same tokens, (num_kv_heads, n - recent) float32; the highest are kept."""
        if not self.select.mix:
            return self.attention
        return mixed(self.attention, self.exact_keys[:, : self.attention.shape[1]], self.select.mix)


def keep_tokens(method: Method, seen: Observed, budgets: torch.Tensor) -> torch.Tensor:
    """(num_kv_heads, n) bool: the tokens that each head keeps, including the recent ones.

    `budgets`: (num_kv_heads,) int64, each including the recent tokens and at most n. Ties go to the earlier token.
    """
    scores = seen.scores
    keep = torch.ones(seen.keys.shape[:2], dtype=torch.bool, device=seen.keys.device)
    keep[:, : scores.shape[1]] = highest(scores, method.head_budgets(seen.attention, budgets - seen.recent))
    return keep


def highest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(rows, n) bool: the `counts` (rows,) highest `scores` (rows, n) of each row. Ties go to the earlier token."""
    n = scores.shape[1]
    if not n:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.device.type == "cpu":  # numpy sorts about twenty times faster than torch
        ordered = torch.from_numpy(np.sort(scores.numpy(), axis=1))
    else:
        ordered = scores.sort(1).values
    lowest = ordered.gather(1, (n - counts[:, None]).clamp(max=n - 1))
    above, equal = scores > lowest, scores == lowest
    return above | (equal & (equal.cumsum(1) <= counts[:, None] - above.sum(1, keepdim=True)))
