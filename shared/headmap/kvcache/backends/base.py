"""A decode backend writes one token of each sequence to the pool, and attends over all tokens of the sequence there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from headmap.kvcache.pool.free import Int32s
from headmap.kvcache.pool.pool import Pool


class DecodeBackend(ABC):
    """Bound to one pool, whose tensors and integers keep their addresses for life.

    What a row holds, a (slot, KV head) pair of a layer:

    - of the part: `books.part_tokens[layer, slot, head]` tokens, in the pages whose numbers lie in memory from
    `books.part_pages[slot]`, an address of int32s, at index `books.part_starts[layer, slot, head]` on; a row without
    tokens has no pages, and its address means nothing;
    - of the tail (`tails = books.tails_of(layer)`): `tails.tokens[slot]` tokens. The i-th lies in page
    `tails.chunk_pages[tails.chunks[slot, i // page_tokens], tails.first_row(layer) + head]` at i % page_tokens. The
    step's own token is among them, at place `tails.write_at[slot]`. Places that no row counts may hold anything, NaN
    too. Slot `books.slots` is idle and may come several times: its output means nothing, and what it writes lands in a
    page of its own.

    `capturable`: whether a step can be captured in a CUDA graph: it looks at no value on the host.
    """

    name: ClassVar[str]
    capturable: ClassVar[bool] = False

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @staticmethod
    @abstractmethod
    def missing(pool: Pool) -> str | None:
        """The reason this backend cannot serve such a pool on this machine; None if it can."""

    @abstractmethod
    def attend(
        self,
        layer_idx: int,
        slots: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Write each sequence's token, then attend over all tokens of its rows.

        `slots`: (S,) int64 on the pool's device. `queries`: (S, num_kv_heads, g, head_dim), g query heads to a KV head;
        `keys`, `values`: (S, num_kv_heads, head_dim). Returns the shape and dtype of `queries`. Logits and sums are
        float32. `scaling` multiplies the products.
        """

    def write(self, pages: Int32s, source: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill whole pages with tokens of a prompt.

        `pages`: (p,); `source`: (p * page_tokens,) int64, the token for each place in them; `keys`, `values`: (tokens,
        head_dim). A backend may override it with a faster way.
        """
        shape = (len(pages), self.pool.page_tokens, keys.shape[-1])
        kept_keys, kept_values = (of.index_select(0, source).view(shape) for of in (keys, values))
        self.pool.write(pages, kept_keys, kept_values)
