"""Resume a sequence: its generated tokens run in one forward pass on top of its prompt's part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.transformers.attention import LayerAttention, PromptMask
from headmap.kvcache.transformers.on_top import Rows, attend_on_top, followed_by


@dataclass(frozen=True)
class ExtendCache:
    """A model's cache for `tokens` tokens of one sequence. The sequence has its part and room in its empty tail.

    The result equals `tokens` decode steps, up to rounding. `on_layer` is called before each layer.
    """

    backend: DecodeBackend
    slot: int
    tokens: int
    on_layer: Callable[[], None] | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        """`keys`, `values`: (1, num_kv_heads, tokens, head_dim)."""
        if self.on_layer is not None:
            self.on_layer()
        window = self.backend.pool.shape.window_of(layer_idx)
        layer = _ExtendLayer(self, keys[0].contiguous(), values[0].contiguous(), layer_idx, window)
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def done(self) -> None:
        """Finish after the last layer: make the tokens part of the sequence."""
        self.backend.pool.books.tail.begin(self.slot, self.tokens)


@dataclass(frozen=True)
class _ExtendLayer(LayerAttention):
    extend: ExtendCache
    keys: torch.Tensor
    values: torch.Tensor
    layer_idx: int
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        pool, slot, keys, values = self.extend.backend.pool, self.extend.slot, self.keys, self.values
        past: Rows = [pool.row(slot, self.layer_idx, head) for head in range(len(keys))]
        output = attend_on_top(queries, keys, values, past, scaling, PromptMask(self.window))
        if self.window is None:
            pool.write_rows(pool.books.tail.pages(slot, self.layer_idx, self.extend.tokens), keys, values)
        else:
            keys, values = followed_by(past, keys, values, self.window)
            pool.write_rows(pool.books.ring.pages(slot, self.layer_idx, keys.shape[1]), keys, values)
            if self.layer_idx == pool.books.ring.layers[-1]:
                pool.books.ring.begin(slot, keys.shape[1])
        return output
