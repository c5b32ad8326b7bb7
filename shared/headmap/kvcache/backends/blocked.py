"""Decode attention as batched products over blocks, in plain torch operations: any device, no kernel to build.

The store is the batch: every block meets the queries of its own row, and rows are put together from their blocks by
log-sum-exp. Nothing is gathered or padded but the last block of each row, so one long head costs its length and no
more. Work per step is proportional to the tokens kept.
"""

from __future__ import annotations

import torch

from headmap.kvcache.store import LayerStore


def attend(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """Attention of one query per query head over the tokens of its row.

    `queries`: (rows, g, head_dim), row 0 unused, g query heads to a KV head. Returns the same shape and dtype; row 0
    and rows without a token are not defined. Products and sums are kept in float32.
    """
    rows, group, _ = queries.shape
    owner = store.owner
    logits = torch.baddbmm(
        store.bias[:, None, :].to(queries.dtype), queries[owner], store.keys.transpose(1, 2), alpha=scaling
    ).float()
    index = owner[:, None].expand(-1, group)
    peak = logits.new_full((rows, group), -torch.inf).scatter_reduce_(0, index, logits.amax(-1), "amax")
    weights = (logits - peak[owner][..., None]).exp_()
    partial = torch.bmm(weights.to(store.values.dtype), store.values).float()
    total = torch.zeros_like(peak).index_add_(0, owner, weights.sum(-1))
    output = partial.new_zeros((rows, *partial.shape[1:])).index_add_(0, owner, partial)
    return output.div_(total[..., None]).to(queries.dtype)
