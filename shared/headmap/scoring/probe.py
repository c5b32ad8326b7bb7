"""Record the position with each head's highest attention while a model reads.

Only the argmax of each attention row is kept. Rows are processed a few at a time, so no tensor of size heads x n x n is
made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.attention import CAUSAL, LayerAttention, PromptMask, causal_attention

MAX_LOGITS = 1 << 24
"""Attention logits held at a time: 64 MiB in float32."""

ROOM = 256
"""The number of tokens by which a sequence's room grows, so that not every token copies its keys."""


@dataclass
class Past:
    """One sequence's keys and values by layer: (num_kv_heads, room, d). The first `length` tokens are valid.

    Lowering `length` removes tokens.
    """

    length: int = 0
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    def extend(self, layer_idx: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `keys` and `values`, (num_kv_heads, q, d). Returns all tokens, (num_kv_heads, length + q, d).

        This does not change `length`. The caller sets it after all layers have been extended.
        """
        if layer_idx == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
            return keys, values
        return self._put(self.keys, layer_idx, keys), self._put(self.values, layer_idx, values)

    def clear(self) -> None:
        """Free all keys and values."""
        self.keys.clear()
        self.values.clear()

    def _put(self, held: list[torch.Tensor], layer_idx: int, new: torch.Tensor) -> torch.Tensor:
        end = self.length + new.shape[1]
        if end > held[layer_idx].shape[1]:
            grown = new.new_empty((len(new), end + ROOM, new.shape[2]))
            grown[:, : self.length] = held[layer_idx][:, : self.length]
            held[layer_idx] = grown
        held[layer_idx][:, self.length : end] = new
        return held[layer_idx][:, :end]


@dataclass(frozen=True)
class Watched:
    """One sequence's input to a forward pass: `tokens` on top of `past`. The last `rows` tokens are watched.

    spans: see PreparedPrompt. winners: per layer (num_heads, rows) int64, the position of the key with the highest
    attention.
    """

    past: Past
    tokens: int
    rows: int
    spans: tuple[tuple[int, int], ...] = ()
    winners: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class ProbeCache:
    """The cache of a forward pass over the tokens of several sequences, one after the other in one row."""

    sequences: Sequence[Watched]
    shape: CacheShape

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        """`keys`, `values`: (1, num_kv_heads, tokens of all, d)."""
        counts = [sequence.tokens for sequence in self.sequences]
        parts = zip(self.sequences, keys[0].split(counts, dim=1), values[0].split(counts, dim=1), strict=True)
        held = [sequence.past.extend(layer_idx, *new) for sequence, *new in parts]
        layer = _ProbeLayer(self, held, self.shape.window_of(layer_idx))
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@dataclass(frozen=True)
class _ProbeLayer(LayerAttention):
    probe: ProbeCache
    held: Sequence[tuple[torch.Tensor, torch.Tensor]]
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        sequences = self.probe.sequences
        parts = queries.split([sequence.tokens for sequence in sequences], dim=2)
        outputs = []
        for sequence, own, (keys, values) in zip(sequences, parts, self.held, strict=True):
            mask = PromptMask(self.window, sequence.spans)
            sequence.winners.append(argmax_keys(own[0, :, -sequence.rows :], keys, mask))
            outputs.append(causal_attention(own, keys[None], values[None], scaling, mask))
        return torch.cat(outputs, dim=1)


def argmax_keys(queries: torch.Tensor, keys: torch.Tensor, mask: PromptMask = CAUSAL) -> torch.Tensor:
    """Find the key with the highest attention for each query head and query, among the keys that the query sees.

    `queries`: (num_heads, r, d), the last r of n; `keys`: (num_kv_heads, n, d). Returns (num_heads, r) int64. The
    softmax keeps the order, so logits are compared.
    """
    num_heads, r, d = queries.shape
    num_kv_heads, n, _ = keys.shape
    transposed = keys.float().transpose(1, 2)
    size = max(1, MAX_LOGITS // (num_heads * n))
    found = []
    for start, own in zip(range(n - r, n, size), queries.split(size, dim=1), strict=True):
        grouped = own.float().reshape(num_kv_heads, -1, d)
        logits = torch.bmm(grouped, transposed).view(num_heads, -1, n)
        found.append(mask.hide(logits, start).argmax(-1))
    return torch.cat(found, dim=1)
