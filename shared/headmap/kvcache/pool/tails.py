"""Rows of equal length in all heads of some layers: the generated tokens, or the window of layers that slide.

A tail grows by chunks: one page for each of its rows. Once it holds `span` tokens, each further one takes the place of
the oldest; attention does not mind the order that keys lie in. Integers only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.pool.free import FreeList, Int32s
from headmap.kvcache.pool.integers import SharedInts


class Tails:
    """The tails of every slot, for the layers `layers`, over a pool of `pages` pages and a spare one.

    A row is a (layer, KV head) pair of these layers, in order. With `wraps` a row is a ring of `span` tokens, else it
    never has more. Slot `slots` is idle: what is written there lands in the spare page and nobody reads it.

    chunk_pages: (chunks, rows) int32, the page that each row has in a chunk. chunks: (slots + 1, width) int32, the
    chunks of each slot in order. tokens: (slots + 1,) int32, how many tokens each row holds, that of the step under way
    among them. write_at: (slots + 1,) int32, where in its row that token goes.
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
        """The row of the layer's first head."""
        return self.layers.index(layer_idx) * self._heads

    def written(self, slot: int) -> int:
        """Tokens ever written to a slot's tail; with `wraps` it holds at most `span` of them."""
        return int(self._written[slot])

    def oldest(self, slot: int) -> int:
        """The place of the oldest token that a slot's rows hold."""
        written = int(self._written[slot])
        return written % self.span if self.wraps and written > self.span else 0

    def held_pages(self, slot: int) -> int:
        return int(self._held[slot]) * self.rows

    def short(self, slots: Ints, more: int = 1) -> int:
        """Pages missing before each of `slots` can take `more` tokens."""
        return int(np.maximum(self._chunks_for(self._written[slots] + more) - self._held[slots], 0).sum()) * self.rows

    def reserve(self, slot: int, tokens: int, pool: FreeList) -> None:
        """Hold room for `tokens` tokens in all. Raises OutOfMemory with nothing changed."""
        missing = int(self._chunks_for(np.int64(tokens))) - int(self._held[slot])
        if missing <= 0 or not self.rows:
            return
        pages = pool.take(missing * self.rows)
        taken = self._free.take(missing)  # there are as many chunks as the pool has pages for
        self.chunk_pages.host[taken] = pages.reshape(missing, self.rows)
        held = int(self._held[slot])
        self.chunks.host[slot, held : held + missing] = taken
        self._held[slot] += missing
        for chunk in taken.tolist():
            self.chunk_pages.send(chunk)
        self.chunks.send(slot)

    def begin(self, slot: int, written: int) -> None:
        """Say how many tokens were written to a slot's rows: those of a prompt, or of an answer that is run again."""
        self._written[slot] = written
        self._tell(np.array([slot]), written - 1)

    def append(self, slots: Ints, pool: FreeList) -> None:
        """Make room for one token in every row of `slots`. Raises OutOfMemory, then nothing has been appended."""
        for slot in slots[self._chunks_for(self._written[slots] + 1) > self._held[slots]].tolist():
            self.reserve(slot, int(self._written[slot]) + 1, pool)
        self._tell(slots, self._written[slots])
        self._written[slots] += 1

    def undo(self, slots: Ints) -> None:
        """Take the last `append` of these slots back. Its pages stay held: the next append needs them again."""
        self._written[slots] -= 1
        self._tell(slots, self._written[slots] - 1)

    def clear(self, slot: int, pool: FreeList) -> None:
        """Give a slot's pages back."""
        held = int(self._held[slot])
        chunks = self.chunks.host[slot, :held].astype(np.int32)
        pool.give(self.chunk_pages.host[chunks].astype(np.int32).reshape(-1))
        self._free.give(chunks)
        self._held[slot] = self._written[slot] = 0
        self.tokens.host[slot] = 0

    def pages(self, slot: int, layer_idx: int, tokens: int) -> Int32s:
        """(num_kv_heads, n) int32: the pages that hold the first `tokens` places of a layer's rows, in order."""
        first = self.first_row(layer_idx)
        chunks = self.chunks.host[slot, : -(-tokens // self._page_tokens)]
        return self.chunk_pages.host[chunks, first : first + self._heads].T.astype(np.int32)

    def _chunks_for(self, tokens: Ints | np.int64) -> Ints:
        held = np.minimum(tokens, self.span) if self.wraps else tokens
        return np.asarray(-(-held // self._page_tokens))

    def _tell(self, slots: Ints, places: Ints | int) -> None:
        """The token of a step goes to `places`, counted from the first token ever written."""
        self.write_at.host[slots] = places % self.span if self.wraps else places
        self.tokens.host[slots] = np.minimum(np.asarray(places) + 1, self.span)
        self.write_at.send()
        self.tokens.send()
