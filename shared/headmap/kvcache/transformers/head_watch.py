"""Record on request which tokens of a prompt one KV head keeps. This copies one row of the layer's selection."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class HeadWatch:
    """Records the tokens that KV head `kv_head` of layer `layer_idx` keeps during a prefill.

    `positions`: indices in the prompt, ascending. In a later turn they count from the turn's first token. Earlier
    tokens have negative indices in a sliding layer and are omitted in other layers.
    """

    layer_idx: int
    kv_head: int
    positions: tuple[int, ...] = ()

    def note(self, layer_idx: int, first: int, length: int, keep: torch.Tensor | None) -> None:
        """Record what a layer keeps of `length` tokens from index `first`: (num_kv_heads, length) bool; None is all."""
        if layer_idx != self.layer_idx:
            return
        chosen = range(length) if keep is None else keep[self.kv_head].nonzero()[:, 0].tolist()
        self.positions = tuple(first + place for place in chosen)
