"""The shape of a model's KV cache in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headmap.budgets import Ints

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one element, by the name of its type."""


@dataclass(frozen=True)
class CacheShape:
    """The shape of a model's KV cache.

    `head_dim`: elements of one key or value. `itemsize`: bytes of one element. `sliding_layers`: the indices of the
    layers that attend to the last `window` tokens only. Sliding layers always hold exactly their window. Budgets apply
    to the other layers.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    itemsize: int
    window: int | None = None
    sliding_layers: tuple[int, ...] = ()

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's key and value in one KV head of one layer."""
        return 2 * self.head_dim * self.itemsize

    def window_of(self, layer_idx: int) -> int | None:
        """The layer's sliding window, or None if it sees everything."""
        return self.window if layer_idx in self.sliding_layers else None

    def layer_tokens(self, prompt_tokens: int) -> Ints:
        """(num_layers,) int64: the maximum number of prompt tokens in a head of each layer."""
        tokens = np.full(self.num_layers, prompt_tokens, dtype=np.int64)
        if self.window is not None:
            tokens[list(self.sliding_layers)] = min(prompt_tokens, self.window)
        return tokens

    def full_tokens(self, prompt_tokens: int) -> int:
        """Tokens over all layers and KV heads if every head keeps all the tokens that its layer sees."""
        return int(self.layer_tokens(prompt_tokens).sum()) * self.num_kv_heads

    @property
    def budgeted_layers(self) -> list[int]:
        """The indices of the layers whose heads have budgets: the layers that see everything."""
        return [layer_idx for layer_idx in range(self.num_layers) if layer_idx not in self.sliding_layers]
