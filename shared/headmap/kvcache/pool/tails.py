"""Rows with the same length in all heads of some layers: generated tokens, or the window of sliding layers.

A tail grows by chunks. A chunk has one page for each row. Once a ring holds `span` tokens, each further token replaces
the oldest. This is correct because attention does not depend on the order of keys. Integers only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.pool.free import FreeList, Int32s
from headmap.kvcache.pool.integers import SharedInts


class Tails:
    """The tails of every slot for the layers `layers`, in a pool of `pages` pages and a spare page.

    A row is a (layer, KV head) pair of `layers`, in order. With `wraps` a row is a ring of `span` tokens; without it a
    row has at most `span` tokens. Slot `slots` is idle: its tokens go to the spare page, which is never read.

    chunk_pages: (chunks, rows) int32, the page of each row in a chunk. chunks: (slots + 1, width) int32, the chunks of
    each slot in order. tokens: (slots + 1,) int32, the number of tokens in each row, including the token of the current
    step. write_at: (slots + 1,) int32, the place in the row where the current token goes.
    """

    def __init__(
        self,
        layers: Sequence[int],
        num_kv_heads: int,
        span: int,
        wraps: bool,
        pages: int,
        page_tokens: int,
        slots: int,
        device: torch.device,
    ) -> None:
        self.layers = tuple(layers)
        self.rows = len(self.layers) * num_kv_heads
        self.span, self.wraps = span, wraps
        self._heads, self._page_tokens = num_kv_heads, page_tokens
        count = pages // self.rows if self.rows else 0
        self._free = FreeList(count)
        self.chunk_pages = SharedInts((count + 1, self.rows), device)
        self.chunks = SharedInts((slots + 1, max(1, -(-span // page_tokens))), device)
        self.tokens = SharedInts((slots + 1,), device)
        self.write_at = SharedInts((slots + 1,), device)
        self._held = np.zeros(slots, dtype=np.int64)
        self._written = np.zeros(slots, dtype=np.int64)
        self.chunk_pages.host[count] = pages
        self.chunk_pages.send(count)
        self.chunks.host[slots] = count
        self.chunks.send(slots)

    def first_row(self, layer_idx: int) -> int:
        """The index of the row of the layer's first head."""
        return self.layers.index(layer_idx) * self._heads

    def written(self, slot: int) -> int:
        """The number of tokens ever written to a slot's tail. With `wraps` the tail holds at most `span` tokens."""
        return int(self._written[slot])

    def oldest(self, slot: int) -> int:
        """The place of the oldest token that a slot's rows hold."""
        written = int(self._written[slot])
        return written % self.span if self.wraps and written > self.span else 0

    def held_pages(self, slot: int) -> int:
        return int(self._held[slot]) * self.rows

    def short(self, slots: Ints, more: int = 1) -> int:
        """The number of pages missing for each slot in `slots` to take `more` tokens."""
        if not self.rows:
            return 0
        return int(np.maximum(self._chunks_for(self._written[slots] + more) - self._held[slots], 0).sum()) * self.rows

    def reserve(self, slot: int, tokens: int, pool: FreeList) -> None:
        """Reserve room for `tokens` tokens in total. Raises OutOfMemory with nothing changed."""
        missing = int(self._chunks_for(np.int64(tokens))) - int(self._held[slot])
        if missing <= 0 or not self.rows:
            return
        held = int(self._held[slot])
        self._grow(np.full(missing, slot), np.arange(held, held + missing), pool)

    def begin(self, slot: int, written: int) -> None:
        """Set how many tokens a slot's rows hold, after a prompt or after generated tokens that were run again."""
        self._written[slot] = written
        self._tell(np.array([slot]), written - 1)

    def append(self, slots: Ints, pool: FreeList) -> None:
        """Make room for one token in every row of `slots`. Raises OutOfMemory with nothing appended."""
        if not self.rows:
            return
        full = slots[self._chunks_for(self._written[slots] + 1) > self._held[slots]]
        if len(full):
            self._grow(full, self._held[full], pool)
        self._tell(slots, self._written[slots])
        self._written[slots] += 1

    def undo(self, slots: Ints) -> None:
        """Undo the last `append` of `slots`. Its pages stay held, because the next append needs them again."""
        if not self.rows:
            return
        self._written[slots] -= 1
        self._tell(slots, self._written[slots] - 1)

    def clear(self, slot: int, pool: FreeList) -> None:
        """Free a slot's pages."""
        held = int(self._held[slot])
        chunks = self.chunks.host[slot, :held].astype(np.int32)
        pool.give(self.chunk_pages.host[chunks].astype(np.int32, copy=False).reshape(-1))
        self._free.give(chunks)
        self._held[slot] = self._written[slot] = 0
        self.tokens.host[slot] = 0

    def pages(self, slot: int, layer_idx: int, tokens: int) -> Int32s:
        """(num_kv_heads, n) int32: the pages that hold the first `tokens` places of a layer's rows, in order."""
        first = self.first_row(layer_idx)
        chunks = self.chunks.host[slot, : -(-tokens // self._page_tokens)]
        return self.chunk_pages.host[chunks, first : first + self._heads].T.astype(np.int32)

    def _grow(self, slots: Ints, places: Ints, pool: FreeList) -> None:
        """Add a chunk to each slot, at index `places` of its chunks. Raises OutOfMemory with nothing changed."""
        pages = pool.take(len(slots) * self.rows)
        taken = self._free.take(len(slots))  # the pool's pages limit the number of chunks
        self.chunk_pages.host[taken] = pages.reshape(len(slots), self.rows)
        self.chunks.host[slots, places] = taken
        np.add.at(self._held, slots, 1)
        self.chunk_pages.send(taken)
        self.chunks.send(np.unique(slots))

    def _chunks_for(self, tokens: Ints | np.int64) -> Ints:
        held = np.minimum(tokens, self.span) if self.wraps else tokens
        return np.asarray(-(-held // self._page_tokens))

    def _tell(self, slots: Ints, places: Ints | int) -> None:
        """Set the place of the step's token. `places` are counted from the first token ever written."""
        self.write_at.host[slots] = places % self.span if self.wraps else places
        self.tokens.host[slots] = np.minimum(np.asarray(places) + 1, self.span)
        self.write_at.send()
        self.tokens.send()
