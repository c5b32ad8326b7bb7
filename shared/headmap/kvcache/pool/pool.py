"""The tensors of the pool: the keys and values of every sequence, in pages that never move.

They are allocated once. On a CPU the operating system provides memory only for pages that have been used.
"""

from __future__ import annotations

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.pool.books import Books
from headmap.kvcache.pool.free import Int32s
from headmap.kvcache.pool.paging import PAGE_TOKENS, Paging
from headmap.kvcache.shape import CacheShape


class Pool:
    """Pages of `page_tokens` tokens each. A page belongs to one KV head of one layer.

    The pool has as many pages as fit in `memory_bytes`, and a spare page for tokens that are never read. `slots`: the
    maximum number of sequences at a time. `max_tokens`: the maximum number of tokens in a sequence's tail.

    `keys`: (pages + 1, head_dim, page_tokens), so that neighbouring tokens have neighbouring addresses. `values`:
    (pages + 1, page_tokens, head_dim). Unused places may hold any value; readers skip them. `books` records which
    sequence owns each page.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        memory_bytes: int,
        slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        page_tokens: int = PAGE_TOKENS,
    ) -> None:
        self.shape = shape
        self.page_tokens = page_tokens
        paging = Paging(shape, page_tokens)
        self.page_bytes = paging.page_bytes
        self.block_bytes = self.page_bytes * (paging.tail(1) or paging.ring(1))
        pages = memory_bytes // self.page_bytes
        self.keys = torch.empty((pages + 1, shape.head_dim, page_tokens), dtype=dtype, device=device)
        self.values = torch.empty((pages + 1, page_tokens, shape.head_dim), dtype=dtype, device=device)
        self.books = Books(paging, pages=pages, slots=slots, max_tokens=max_tokens, device=device)

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all pages except the spare page."""
        return self.books.free.count * self.page_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that sequences own."""
        return self.books.held_pages * self.page_bytes

    def write(self, pages: Int32s, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill whole pages. `pages`: (p,); `keys`, `values`: (p, page_tokens, head_dim)."""
        index = self._index(pages)
        self.keys.index_copy_(0, index, keys.transpose(1, 2))
        self.values.index_copy_(0, index, values)

    def write_rows(self, pages: Int32s, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write rows of equal length.

        `pages`: (num_kv_heads, p); `keys`, `values`: (num_kv_heads, n, head_dim). A row of n tokens fills p pages; the
        last page may be partly filled.
        """
        heads, n, d = keys.shape
        whole, rest = divmod(n, self.page_tokens)
        if whole:
            cut = (heads * whole, self.page_tokens, d)
            of = slice(0, whole * self.page_tokens)
            self.write(pages[:, :whole].reshape(-1), keys[:, of].reshape(cut), values[:, of].reshape(cut))
        if rest:
            index = self._index(pages[:, whole])
            self.keys[index, :, :rest] = keys[:, n - rest :].transpose(1, 2)
            self.values[index, :rest] = values[:, n - rest :]

    def copy(self, pages: Int32s, to: Int32s) -> None:
        """Copy whole pages. Each argument lists page numbers, (p,)."""
        source, target = self._index(pages), self._index(to)
        for tensor in (self.keys, self.values):
            tensor.index_copy_(0, target, tensor.index_select(0, source))

    def read(self, pages: Int32s, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the first `tokens` places of `pages` (n,) in order. Returns keys and values, (tokens, head_dim) each."""
        index = self._index(pages)
        keys = self.keys.index_select(0, index).transpose(1, 2).reshape(-1, self.shape.head_dim)
        return keys[:tokens], self.values.index_select(0, index).view(-1, self.shape.head_dim)[:tokens]

    def _index(self, pages: Int32s | Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(pages, dtype=np.int64)).to(self.device)

    def row(self, slot: int, layer_idx: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the tokens that one head holds of a sequence. Returns keys and values, (n, head_dim) each.

        Tokens are in memory order: first the part, then the tail. The oldest token of a ring may be at any place in it.
        """
        books = self.books
        part, tails = books.part(slot), books.tails_of(layer_idx)
        rows = [self.read(part.pages_of(layer_idx, head, self.page_tokens), int(part.tokens[layer_idx, head]))]
        held = int(tails.tokens.host[slot])
        rows.append(self.read(tails.pages(slot, layer_idx, held)[head], held))
        keys, values = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return keys, values
