"""Decoding: the model processes one token of each running sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.transformers.attention import LayerAttention


class StepCache(ABC):
    """A model's cache for one token of each sequence."""

    @abstractmethod
    def window_of(self, layer_idx: int) -> int | None:
        """The layer's sliding window, or None if it sees everything."""

    @abstractmethod
    def attend(
        self, layer_idx: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """`DecodeBackend.attend` for the step's sequences."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        """`keys`, `values`: (S, num_kv_heads, 1, head_dim)."""
        if keys.shape[2] != 1:
            raise ValueError(f"decoding takes one token a sequence, got {keys.shape[2]}")
        layer = _StepLayer(self, keys[:, :, 0], values[:, :, 0], layer_idx, self.window_of(layer_idx))
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        raise NotImplementedError("sequences differ in length; decoding gives every token its position")


@dataclass(frozen=True)
class DecodeCache(StepCache):
    """The cache of the sequences in `slots`, (S,) int64. The books already have room for their tokens."""

    backend: DecodeBackend
    slots: torch.Tensor

    def window_of(self, layer_idx: int) -> int | None:
        return self.backend.pool.shape.window_of(layer_idx)

    def attend(
        self, layer_idx: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        return self.backend.attend(layer_idx, self.slots, queries, keys, values, scaling)


@dataclass(frozen=True)
class _StepLayer(LayerAttention):
    cache: StepCache
    keys: torch.Tensor
    values: torch.Tensor
    layer_idx: int
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        sequences, num_heads, _, d = queries.shape
        own = queries.reshape(sequences, self.keys.shape[1], -1, d)
        output = self.cache.attend(self.layer_idx, own, self.keys, self.values, scaling)
        return output.view(sequences, 1, num_heads, d)
