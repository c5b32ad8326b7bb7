"""Which tokens a head keeps: those the prompt's last queries attend to most (SnapKV; SparseMM section 3.2)."""

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
    """The inputs of a layer's choice of tokens.

    `queries`: (num_heads, q, d), the prompt's last queries after rotary embedding, q = max(window, 1). `keys`:
    (num_kv_heads, n, d), of the whole prompt. `scaling` multiplies the products. `window`: how many of the last
    tokens are always kept. `mask`: which tokens each token sees in the layer.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scaling: float
    window: int
    mask: PromptMask = CAUSAL

    def window_attention(self) -> torch.Tensor:
        """Pooled attention of the observation window to each token before it, (num_kv_heads, n - window) float32.

        Softmax over all keys, averaged over queries and the KV head's query heads, then average-pooled along the
        sequence. Needs num_heads x q x n floats, never n x n.
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
    """(num_kv_heads, n) bool: the tokens each head keeps, its window among them.

    `budgets`: (num_kv_heads,) int64, window included, none above n. Ties go to the earlier token.
    """
    scores = method.score_tokens(seen)
    keep = torch.ones(seen.keys.shape[:2], dtype=torch.bool, device=seen.keys.device)
    keep[:, : scores.shape[1]] = highest(scores, method.head_budgets(scores, budgets - seen.window))
    return keep


def highest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(rows, n) bool: the `counts` (rows,) highest scores of each row of `scores` (rows, n); ties go to the earlier."""
    n = scores.shape[1]
    if not n:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.device.type == "cpu":  # numpy sorts with vector instructions, torch takes twenty times as long
        ordered = torch.from_numpy(np.sort(scores.numpy(), axis=1))
    else:
        ordered = scores.sort(1).values
    lowest = ordered.gather(1, (n - counts[:, None]).clamp(max=n - 1))
    above, equal = scores > lowest, scores == lowest
    return above | (equal & (equal.cumsum(1) <= counts[:, None] - above.sum(1, keepdim=True)))
