"""Select the tokens that the prompt's last queries attend to most (SnapKV; SparseMM section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import avg_pool1d

from headmap.kvcache.methods.base import Method
from headmap.kvcache.transformers.attention import CAUSAL, PromptMask

POOL = 5


@dataclass(frozen=True)
class Observed:
    """The inputs for selecting a layer's tokens.

    `queries`: (num_heads, q, d), the prompt's last queries after rotary embedding, q = max(window, 1). `keys`:
    (num_kv_heads, n, d), of the whole prompt. `scaling` multiplies the dot products. `window`: the number of last
    tokens that are always kept. `mask`: which tokens each token sees in the layer.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scaling: float
    window: int
    mask: PromptMask = CAUSAL

    def window_attention(self) -> torch.Tensor:
        """Pooled attention of the observation window to each token before it, (num_kv_heads, n - window) float32.

        The softmax runs over all keys. Its result is averaged over queries and the KV head's query heads, then
        average-pooled along the sequence. This needs num_heads x q x n floats, never n x n.
        """
        return self._window_attention

    @cached_property
    def _window_attention(self) -> torch.Tensor:
        num_kv_heads, n, d = self.keys.shape
        q = self.queries.shape[1]
        grouped = (self.queries.float() * self.scaling).reshape(num_kv_heads, -1, d)
        logits = torch.bmm(grouped, self.keys.float().transpose(1, 2)).view(num_kv_heads, -1, q, n)
        attention = self.mask.hide(logits, n - q).softmax(-1).mean((1, 2))
        return avg_pool1d(attention[:, : n - self.window], POOL, stride=1, padding=POOL // 2)


def keep_tokens(method: Method, seen: Observed, budgets: torch.Tensor) -> torch.Tensor:
    """(num_kv_heads, n) bool: the tokens that each head keeps, including its window.

    `budgets`: (num_kv_heads,) int64, each including the window and at most n. Ties go to the earlier token.
    """
    scores = method.score_tokens(seen)
    keep = torch.ones(seen.keys.shape[:2], dtype=torch.bool, device=seen.keys.device)
    keep[:, : scores.shape[1]] = highest(scores, method.head_budgets(scores, budgets - seen.window))
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
