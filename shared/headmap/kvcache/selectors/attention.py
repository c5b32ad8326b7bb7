"""Attention of a prompt's last queries (SnapKV, arXiv 2404.14469, section 4; SparseMM, section 3.2)."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool1d

from headmap.kvcache.transformers.attention import PromptMask


def observed_attention(queries: torch.Tensor, keys: torch.Tensor, scaling: float, mask: PromptMask) -> torch.Tensor:
    """Attention of the last `q` queries to each of the `n` tokens, averaged: (num_kv_heads, n) float32.

    `queries`: (num_heads, q, d), after rotary embedding; `keys`: (num_kv_heads, n, d). The softmax runs over all keys.
    The mean is over queries and the KV head's query heads. This needs num_heads x q x n floats, never n x n.
    """
    num_kv_heads, n, d = keys.shape
    q = queries.shape[1]
    grouped = (queries.float() * scaling).reshape(num_kv_heads, -1, d)
    logits = torch.bmm(grouped, keys.float().transpose(1, 2)).view(num_kv_heads, -1, q, n)
    return mask.hide(logits, n - q).softmax(-1).mean((1, 2))


def pooled(attention: torch.Tensor, width: int) -> torch.Tensor:
    """Average each token's attention with that of its `width - 1` neighbours; outside of the row there is none."""
    return avg_pool1d(attention, width, stride=1, padding=width // 2)[:, : attention.shape[1]]
