"""How the cache meets a transformers model: one attention function, registered under the name "headmap".

A model calls `past_key_values.update(keys, values, layer_idx)` and hands what it gets to the attention function. Our
caches return a `LayerAttention` in the place of the keys: it holds the cache and the layer, so all state is in the
cache object, none on modules, and nothing in transformers is patched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "headmap"


class LayerAttention(ABC):
    """What a cache's `update` returns in the place of keys and values: attention over one layer."""

    @abstractmethod
    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        """`queries`: (batch, num_heads, q, head_dim). Returns (batch, q, num_heads, head_dim)."""


def headmap_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: LayerAttention,
    value: LayerAttention,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function in transformers' own signature.

    Raises TypeError when the model runs without one of our caches, and ValueError for a layer with a sliding window.
    """
    del module, value, attention_mask, kwargs
    if not isinstance(key, LayerAttention):
        raise TypeError(f'attention "{ATTENTION}" needs a headmap cache as past_key_values')
    if sliding_window is not None:
        raise ValueError("layers with a sliding window are not served by the ragged cache")
    return key.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None


def use_headmap_attention(model: PreTrainedModel) -> None:
    """Switch `model`'s text layers to our attention; vision towers keep theirs."""
    AttentionInterface.register(ATTENTION, headmap_attention)
    model.set_attn_implementation({"text_config": ATTENTION})


def causal_attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of the last queries over all keys, without materialising the weights.

    `queries`: (batch, num_heads, q, d), the last q of n; `keys`, `values`: (batch, num_kv_heads, n, d). Returns
    (batch, q, num_heads, d).
    """
    q, n = queries.shape[2], keys.shape[2]
    mask = None if q == n else torch.ones(q, n, dtype=torch.bool, device=queries.device).tril(n - q)
    grouped = queries.shape[1] != keys.shape[1]
    output = scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None and q > 1, scale=scaling, enable_gqa=grouped
    )
    return output.transpose(1, 2)
