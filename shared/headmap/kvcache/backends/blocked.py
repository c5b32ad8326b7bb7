"""Decode attention as batched products over blocks, in plain torch operations: any device, no kernel to build.

The store is the batch: every block meets the queries of its own row, and rows are put together from their blocks by
log-sum-exp. Nothing is gathered or padded but the last block of each row, so one long head costs its length and no
more. Work per step is proportional to the tokens kept.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from headmap.kvcache.backends import fused_blocks
from headmap.kvcache.store import LayerStore

FEW_PAIRS = 256
"""Up to so many pairs of a row and a block every row meets every block: one call is worth products masked away."""


def attend(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """Attention of one query per query head over the tokens of its row.

    `queries`: (rows, g, head_dim), g query heads to a KV head. Returns the same shape and dtype; rows without a token
    are not defined. Products and sums are kept in float32.
    """
    if len(queries) * store.used <= FEW_PAIRS:
        return attend_masked(queries, store, scaling)
    if queries.device.type == "cpu" and queries.dtype.itemsize == 2:
        return fused_blocks.attend(queries, store, scaling)
    return attend_blocks(queries, store, scaling)


def attend_blocks(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """As `attend`: every block meets its own row."""
    rows, group, _ = queries.shape
    used = store.in_use(rows)
    row_of = used.owner[:, None].expand(-1, group)
    # Logits to the base 2: on a CPU torch spreads a small exp over threads, which costs more than it saves; not exp2.
    logits = torch.baddbmm(
        used.bias[:, None].to(used.keys.dtype),
        queries.index_select(0, used.owner),
        used.keys.transpose(1, 2),
        alpha=scaling * math.log2(math.e),
    ).float()
    peak = logits.new_full((rows, group), -torch.inf).scatter_reduce_(0, row_of, logits.amax(-1), "amax")
    weights = logits.sub_(peak.index_select(0, used.owner)[..., None]).exp2_()
    total = torch.zeros_like(peak).scatter_add_(0, row_of, weights.sum(-1))
    partial = torch.bmm(weights.to(used.values.dtype), used.values).float()
    return used.sum_by_row(partial).div_(total[..., None]).to(queries.dtype)


def attend_masked(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """As `attend`: every row meets all tokens at once, those of other rows masked."""
    rows, group, dim = queries.shape
    used = store.in_use(rows)
    mask = (used.apart + used.bias).to(queries.dtype).view(1, rows, 1, -1)
    tokens = mask.shape[-1]
    output: torch.Tensor = scaled_dot_product_attention(
        queries[None],
        used.keys.view(1, 1, tokens, dim).expand(1, rows, -1, -1),
        used.values.view(1, 1, tokens, dim).expand(1, rows, -1, -1),
        attn_mask=mask.expand(1, rows, group, tokens),
        scale=scaling,
    )
    return output[0]
