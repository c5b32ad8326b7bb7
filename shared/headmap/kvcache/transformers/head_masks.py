"""Switch heads off to measure what the model loses without them. This is for analysis and saves no memory.

SparseMM (section 3.1) compares masking the top visual heads with masking as many random heads. `headmap bench heads`
does the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from headmap.kvcache.transformers.attention import LayerAttention


class Cache(Protocol):
    """The interface of a cache that a model calls."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int
    ) -> tuple[LayerAttention, LayerAttention]: ...
    def get_seq_length(self, layer_idx: int = 0) -> int: ...


class HeadMask:
    """Set the output of query heads to zero. `heads` are (layer, head) pairs."""

    def __init__(self, heads: Iterable[tuple[int, int]]) -> None:
        self.heads: dict[int, list[int]] = {}
        for layer_idx, head in heads:
            self.heads.setdefault(layer_idx, []).append(head)

    def over(self, cache: Cache) -> Cache:
        """Wrap `cache` so that the masked heads are switched off."""
        return _MaskedCache(cache, self.heads) if self.heads else cache


@dataclass(frozen=True)
class _MaskedCache:
    inner: Cache
    heads: dict[int, list[int]]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        layer, _value = self.inner.update(keys, values, layer_idx)
        masked = _MaskedLayer(layer, self.heads.get(layer_idx, []), layer.window)
        return masked, masked

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.inner.get_seq_length(layer_idx)


@dataclass(frozen=True)
class _MaskedLayer(LayerAttention):
    inner: LayerAttention
    heads: list[int]
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        output = self.inner.attend(queries, scaling)
        if not self.heads:
            return output
        output = output.clone()
        output[:, :, self.heads] = 0
        return output
