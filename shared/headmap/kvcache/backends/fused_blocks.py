"""Decode attention for 16-bit floats on a CPU: torch's fused kernel on every block, rows joined by log-sum-exp.

A batched product rounds logits to the tensors' own precision; the fused kernel keeps them in float32, and is faster as
soon as there are many rows. For float32 plain products (`blocked`) are as fast.
"""

from __future__ import annotations

import torch

from headmap.kvcache.store import LayerStore


def attend(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """As `blocked.attend`; products and sums are kept in float32."""
    rows, group, _ = queries.shape
    owner, keys, values, bias = store.in_use
    # scaled_dot_product_attention's own kernel, which also returns the logarithm of each row's sum
    partial, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries.index_select(0, owner)[:, None],
        keys[:, None],
        values[:, None],
        attn_mask=bias[:, None, None].expand(-1, 1, group, -1).to(queries.dtype),
        scale=scaling,
    )
    log_sums = log_sums.view(-1, group)
    row_of = owner[:, None].expand(-1, group)
    peak = log_sums.new_full((rows, group), -torch.inf).scatter_reduce_(0, row_of, log_sums, "amax")
    weights = (log_sums - peak.index_select(0, owner)).exp_()
    total = torch.zeros_like(peak).scatter_add_(0, row_of, weights)
    weighted = partial.view(-1, *queries.shape[1:]) * weights[..., None]
    return store.sum_by_row(weighted, rows).div_(total[..., None]).to(queries.dtype)
