"""MixKV (arXiv 2510.20707): importance mixed with diversity, as much as a head's keys are alike (section 3.3)."""

from __future__ import annotations

import torch
from torch.linalg import vector_norm


def mixed(importance: torch.Tensor, keys: torch.Tensor, mix: float) -> torch.Tensor:
    """Scores of `n` tokens: (num_kv_heads, n) float32.

    `importance`: (num_kv_heads, n), from attention. `keys`: (num_kv_heads, n, d). A head whose keys are all alike would
    keep many copies of the same content, so there the tokens that differ gain most. Diversity has the mean of
    importance, so that a few tokens of great importance stay ahead. `mix`: 0 to 1, times the head's own likeness, is
    the weight of diversity.
    """
    keys = keys.float()
    tiny = torch.finfo(keys.dtype).tiny
    # Products with the lengths apart: a tensor of directions is as large as the keys, and takes longer than all else.
    lengths = vector_norm(keys, dim=-1).clamp_min(tiny)
    mean = torch.bmm(lengths.reciprocal()[:, None], keys) / keys.shape[1]
    diversity = _from_0_to_1(-torch.bmm(keys, mean.transpose(1, 2)).squeeze(-1) / lengths)
    diversity *= importance.mean(1, keepdim=True) / diversity.mean(1, keepdim=True).clamp_min(tiny)
    weight = mix * likeness(mean.squeeze(1), keys.shape[1])[:, None]
    return (1 - weight) * importance + weight * diversity


def likeness(mean: torch.Tensor, n: int) -> torch.Tensor:
    """The mean cosine of two different keys of a head, at least 0. `mean`: (num_kv_heads, d), of their directions."""
    if n < 2:
        return torch.zeros(len(mean), device=mean.device)
    return ((n * mean.square().sum(-1) - 1) / (n - 1)).clamp(0, 1)


def _from_0_to_1(values: torch.Tensor) -> torch.Tensor:
    low, high = values.aminmax(dim=1, keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
