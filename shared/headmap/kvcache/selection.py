"""Which tokens a head keeps: those the prompt's last queries attend to most (SnapKV; SparseMM section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import avg_pool1d

from headmap.kvcache.methods.base import Method
from headmap.kvcache.transformers.attention import CAUSAL, PromptMask

POOL = 5


def window_attention(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, window: int, mask: PromptMask = CAUSAL
) -> torch.Tensor:
    """Pooled attention of the observation window to each token before it.

    `queries`: (num_heads, q, d), the prompt's last queries after rotary embedding, q = max(window, 1). `keys`:
    (num_kv_heads, n, d), n the whole prompt. `scaling` multiplies the products. Returns (num_kv_heads, n - window)
    float32: softmax over all keys, `mask`ed as in the layer, averaged over queries and the KV head's query heads, then
    average-pooled along the sequence. Needs num_heads x q x n floats, never n x n.
    """
    num_kv_heads, n, d = keys.shape
    q = queries.shape[1]
    grouped = (queries.float() * scaling).reshape(num_kv_heads, -1, d)
    logits = torch.bmm(grouped, keys.float().transpose(1, 2)).view(num_kv_heads, -1, q, n)
    attention = mask.hide(logits, n - q).softmax(-1).mean((1, 2))
    return avg_pool1d(attention[:, : n - window], POOL, stride=1, padding=POOL // 2)


def keep_tokens(
    method: Method,
    queries: torch.Tensor,
    keys: torch.Tensor,
    scaling: float,
    budgets: torch.Tensor,
    window: int,
    mask: PromptMask = CAUSAL,
) -> torch.Tensor:
    """(num_kv_heads, n) bool: the tokens each head keeps, its window among them.

    `budgets`: (num_kv_heads,) int64, window included, none above n. The rest as in `window_attention`. Ties go to the
    earlier token.
    """
    attention = window_attention(queries, keys, scaling, window, mask)
    keep = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
    keep[:, : attention.shape[1]] = highest(attention, method.head_budgets(attention, budgets - window))
    return keep


def highest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(rows, n) bool: the `counts` (rows,) highest of each row of `scores` (rows, n), of equal ones the earlier."""
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
