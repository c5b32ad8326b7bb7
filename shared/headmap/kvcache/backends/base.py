"""A decode backend writes one token of each sequence to the pool and attends over all tokens of the sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from headmap.kvcache.pool.free import Int32s
from headmap.kvcache.pool.pool import Pool


class DecodeBackend(ABC):
    """A backend bound to one pool. The addresses of the pool's tensors and integers never change.

    A row is a (slot, KV head) pair of one layer. Its tokens lie in two places:

    - The part holds `books.part_tokens[layer, slot, head]` tokens. `books.part_pages[slot]` is the address of an int32
      array of page numbers. The row's pages start at index `books.part_starts[layer, slot, head]` of this array. A row
      without tokens has no pages, and its address must not be used.
    - The tail (`tails = books.tails_of(layer)`) holds `tails.tokens[slot]` tokens. Token i lies in page
      `tails.chunk_pages[tails.chunks[slot, i // page_tokens], tails.first_row(layer) + head]` at place i % page_tokens.
      The tail includes the token of the current step, at place `tails.write_at[slot]`.

    Unused places may hold any value, including NaN. Slot `books.slots` is idle and may occur several times in a step.
    Its output is meaningless, and its tokens are written to a spare page.

    `capturable`: whether a CUDA graph can capture a step. Such a step reads no value on the host.
    """

    name: ClassVar[str]
    capturable: ClassVar[bool] = False

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @staticmethod
    @abstractmethod
    def missing(pool: Pool) -> str | None:
        """Return why this backend cannot serve the pool on this machine, or None if it can."""

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

        `slots`: (S,) int64 on the pool's device. `queries`: (S, num_kv_heads, g, head_dim), g query heads per KV head;
        `keys`, `values`: (S, num_kv_heads, head_dim). Returns a tensor with the shape and dtype of `queries`. Logits
        and sums are float32. `scaling` multiplies the dot products.
        """

    def write(self, pages: Int32s, source: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill whole pages with tokens of a prompt.

        `pages`: (p,); `source`: (p * page_tokens,) int64, the token that goes to each place of the pages; `keys`,
        `values`: (tokens, head_dim). A backend may override this method with a faster one.
        """
        shape = (len(pages), self.pool.page_tokens, keys.shape[-1])
        kept_keys, kept_values = (of.index_select(0, source).view(shape) for of in (keys, values))
        self.pool.write(pages, kept_keys, kept_values)
