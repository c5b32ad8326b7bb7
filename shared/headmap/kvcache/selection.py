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

MAX_FLOATS = 2**24
"""Numbers of keys that are copied to float32 at a time, unless one head has more: those of 4K tokens of 32 heads."""


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

    @property
    def attention(self) -> torch.Tensor:
        """Pooled attention to each token before the recent ones: (num_kv_heads, n - recent) float32."""
        return self._attention_and_scores[0]

    @property
    def scores(self) -> torch.Tensor:
        """The selector's scores of the same tokens, (num_kv_heads, n - recent) float32; the highest are kept."""
        return self._attention_and_scores[1]

    @cached_property
    def _attention_and_scores(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Some heads at a time, which bounds the float32 copies of a long prompt's keys."""
        num_kv_heads, n, d = self.keys.shape
        at_once = max(1, MAX_FLOATS // (n * d))
        if at_once >= num_kv_heads:
            return self._of_heads(self.queries, self.keys)
        queries = self.queries.split(at_once * len(self.queries) // num_kv_heads)
        parts = [self._of_heads(*heads) for heads in zip(queries, self.keys.split(at_once), strict=True)]
        attention, scores = zip(*parts, strict=True)
        return torch.cat(attention), torch.cat(scores)

    def _of_heads(self, queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exact_keys, before = keys.float(), keys.shape[1] - self.recent
        whole = observed_attention(queries, exact_keys, self.scaling, self.mask)
        attention = pooled(whole[:, :before], self.select.pool)
        if not self.select.mix:
            return attention, attention
        return attention, mixed(attention, exact_keys[:, :before], self.select.mix)


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
