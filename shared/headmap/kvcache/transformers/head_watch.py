"""Which tokens of a prompt one KV head keeps, on request. Costs one copy of a row of the layer's choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class HeadWatch:
    """During a prefill it notes the tokens that KV head `kv_head` of layer `layer_idx` keeps.

    `positions`: indices in the prompt, ascending. In a further turn they count from the turn's own first token. Earlier
    tokens have negative indices in a sliding layer, and are left out in other layers.
    """

    layer_idx: int
    kv_head: int
    positions: tuple[int, ...] = ()

    def note(self, layer_idx: int, first: int, length: int, keep: torch.Tensor | None) -> None:
        """A layer keeps some of the `length` tokens from index `first` on: (num_kv_heads, length) bool; None is all."""
        if layer_idx != self.layer_idx:
            return
        chosen = range(length) if keep is None else keep[self.kv_head].nonzero()[:, 0].tolist()
        self.positions = tuple(first + place for place in chosen)
