"""Decoding: the model processes one token of each running sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.transformers.attention import LayerAttention


@dataclass(frozen=True)
class DecodeCache:
    """A model's cache for one token of each sequence in `slots`, (S,) int64. The books already have room for it."""

    backend: DecodeBackend
    slots: torch.Tensor

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        """`keys`, `values`: (S, num_kv_heads, 1, head_dim)."""
        if keys.shape[2] != 1:
            raise ValueError(f"decoding takes one token a sequence, got {keys.shape[2]}")
        window = self.backend.pool.shape.window_of(layer_idx)
        layer = _DecodeLayer(self, keys[:, :, 0], values[:, :, 0], layer_idx, window)
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        raise NotImplementedError("sequences differ in length; decoding gives every token its position")


@dataclass(frozen=True)
class _DecodeLayer(LayerAttention):
    decode: DecodeCache
    keys: torch.Tensor
    values: torch.Tensor
    layer_idx: int
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        sequences, num_heads, _, d = queries.shape
        own = queries.reshape(sequences, self.keys.shape[1], -1, d)
        output = self.decode.backend.attend(self.layer_idx, self.decode.slots, own, self.keys, self.values, scaling)
        return output.view(sequences, 1, num_heads, d)
