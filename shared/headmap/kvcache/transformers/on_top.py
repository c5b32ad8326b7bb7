"""Attention of new tokens over themselves and over cached rows, whose lengths differ by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headmap.budgets import Ints
from headmap.kvcache.transformers.attention import PromptMask, causal_attention

Rows = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each KV head of a layer, (n, head_dim) each; n may differ from head to head."""


@dataclass(frozen=True)
class ParkedSequence:
    """A sequence's tokens, copied out of the pool.

    lengths: (num_layers, num_kv_heads) int64, the number of tokens of each head. layers: keys and values by layer, each
    (sum of the layer's lengths, head_dim), head by head.
    """

    lengths: Ints
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def rows(self, layer_idx: int, device: torch.device) -> Rows:
        counts = self.lengths[layer_idx].tolist()
        keys, values = (of.to(device).split(counts) for of in self.layers[layer_idx])
        return list(zip(keys, values, strict=True))


def attend_on_top(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, past: Rows, scaling: float, mask: PromptMask
) -> torch.Tensor:
    """Attend over `past` and over the new tokens, as far as `mask` allows.

    `queries`: (1, num_heads, n, d); `keys`, `values`: (num_kv_heads, n, d). Returns (1, n, num_heads, d).
    """
    outputs = []
    for head, own in enumerate(queries.chunk(len(keys), dim=1)):
        held_keys, held_values = past[head]
        all_keys, all_values = torch.cat([held_keys, keys[head]]), torch.cat([held_values, values[head]])
        outputs.append(
            causal_attention(own, all_keys[None, None], all_values[None, None], scaling, mask.after(len(held_keys)))
        )
    return torch.cat(outputs, dim=2)


def followed_by(past: Rows, keys: torch.Tensor, values: torch.Tensor, last: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Join past and new tokens and return the `last` ones, (num_kv_heads, m, d). All heads have equally long pasts."""
    pairs = [
        (torch.cat([held_keys, keys[head]])[-last:], torch.cat([held_values, values[head]])[-last:])
        for head, (held_keys, held_values) in enumerate(past)
    ]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
