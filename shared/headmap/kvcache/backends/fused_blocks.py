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
    used = store.in_use(rows)
    # scaled_dot_product_attention's own kernel, which also returns the logarithm of each row's sum
    partial, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries.index_select(0, used.owner)[:, None],
        used.keys[:, None],
        used.values[:, None],
        attn_mask=used.bias[:, None, None].expand(-1, 1, group, -1).to(queries.dtype),
        scale=scaling,
    )
    log_sums = log_sums.view(-1, group).add_(used.bias[:, :1])  # the kernel calls an empty block's sum 1
    row_of = used.owner[:, None].expand(-1, group)
    peak = log_sums.new_full((rows, group), -torch.inf).scatter_reduce_(0, row_of, log_sums, "amax")
    weights = (log_sums - peak.index_select(0, used.owner)).exp_()
    total = torch.zeros_like(peak).scatter_add_(0, row_of, weights)
    weighted = partial.view(-1, *queries.shape[1:]) * weights[..., None]
    return used.sum_by_row(weighted).div_(total[..., None]).to(queries.dtype)
