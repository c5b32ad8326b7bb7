"""The owner row of each page, in the immutable parts and the tails of all sequences. Integers only, no keys.

A sequence gets pages when it is admitted and when its tail needs another chunk. Pages are never moved or compacted. The
memory held is the number of held pages times the page size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.errors import OutOfMemory
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.pool.free import FreeList, Int32s
from headmap.kvcache.pool.integers import SharedInts
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.pool.tails import Tails


@dataclass(eq=False)
class Part:
    """The kept tokens of a prompt. They are written once and read by every sequence that continues the prompt.

    pages: (n,) int32, the pages of all rows, layer by layer and head by head. used: the number of pages that rows have
    received. starts: (num_layers, num_kv_heads) int32, the index in `pages` of each row's first page. tokens:
    (num_layers, num_kv_heads) int32, each row's token count.
    """

    pages: SharedInts
    starts: Int32s
    tokens: Int32s
    used: int = 0
    users: int = 1

    def pages_of(self, layer_idx: int, head: int, page_tokens: int) -> Int32s:
        start = self.starts[layer_idx, head]
        return self.pages.host[start : start + -(-self.tokens[layer_idx, head] // page_tokens)].astype(np.int32)


class Books:
    """Pages and rows of all sequences of one pool. It is not thread-safe; one engine thread owns it.

    part_pages: (slots + 1,) int64, the address of `pages` in each slot's part. part_starts, part_tokens: (num_layers,
    slots + 1, num_kv_heads) int32. Slot `slots` is idle: it holds nothing, and writes to it are discarded.
    """

    def __init__(self, paging: Paging, *, pages: int, slots: int, max_tokens: int, device: torch.device) -> None:
        shape = self.shape = paging.shape
        self.paging = paging
        self.page_tokens = paging.page_tokens
        self.slots = slots
        self.free = FreeList(pages)
        heads = shape.num_kv_heads
        size = paging.page_tokens
        self.tail = Tails(shape.budgeted_layers, heads, max_tokens, False, pages, size, slots, device)
        self.ring = Tails(shape.sliding_layers, heads, shape.window or 1, True, pages, size, slots, device)
        self.part_pages = SharedInts((slots + 1,), device, np.int64)
        self.part_starts = SharedInts((shape.num_layers, slots + 1, heads), device)
        self.part_tokens = SharedInts((shape.num_layers, slots + 1, heads), device)
        self._parts: list[Part | None] = [None] * slots
        self._free_slots = list(range(slots - 1, -1, -1))
        self._device = device

    def tails_of(self, layer_idx: int) -> Tails:
        """Return the tails that hold the layer's generated tokens."""
        return self.ring if layer_idx in self.ring.layers else self.tail

    # ---- sizes

    @property
    def held_pages(self) -> int:
        return self.free.count - len(self.free)

    def short(self, slots: Sequence[int] | Ints) -> int:
        """The number of pages missing for each slot in `slots` to take one more token."""
        order = np.asarray(slots, dtype=np.int64)
        return self.tail.short(order) + self.ring.short(order)

    def prompt_pages(self, slot: int) -> int:
        """The number of pages that hold a slot's prompt: its part, which slots may share, and its ring."""
        return self.part(slot).used + self.ring.held_pages(slot)

    def tokens(self, slot: int) -> int:
        """The number of tokens held for a sequence, over all layers and KV heads."""
        generated = sum(int(tails.tokens.host[slot]) * tails.rows for tails in (self.tail, self.ring))
        return int(self.part(slot).tokens.sum()) + generated

    def lengths(self, slot: int) -> Ints:
        """(num_layers, num_kv_heads) int64: the number of tokens in each row, including generated tokens."""
        held = self.part(slot).tokens.astype(np.int64)
        for tails in (self.tail, self.ring):
            held[list(tails.layers)] += int(tails.tokens.host[slot])
        return held

    # ---- life cycle of a sequence

    def admit(self, plan: KeepPlan, new_tokens: int, past: Ints | None = None) -> int:
        """Take a slot, with all pages for the tokens that the plan keeps and for `new_tokens` generated tokens.

        Raises OutOfMemory with nothing taken.
        """
        needed = self.paging.sequence(plan, new_tokens, past)
        if needed > len(self.free) or not self._free_slots:
            raise OutOfMemory(
                f"{needed} KV pages are needed, {len(self.free)} of {self.free.count} are free, and "
                f"{len(self._free_slots)} of {self.slots} slots"
            )
        slot = self._free_slots.pop()
        part = self._new_part(self.paging.part(plan, past))
        self._hold(slot, part)
        self.tail.reserve(slot, new_tokens, self.free)
        self.ring.reserve(slot, self.paging.in_ring(plan, past) + new_tokens, self.free)
        return slot

    def place(self, slot: int, layer_idx: int, tokens: Ints) -> Int32s:
        """Give pages to the rows of one layer of the part. Call it once per layer.

        `tokens`: (num_kv_heads,), the number of tokens in each row. Returns the pages, (n,) int32, head by head. Raises
        OutOfMemory if the part was admitted with fewer pages.
        """
        part = self.part(slot)
        counts = -(-tokens // self.page_tokens)
        ends = part.used + np.cumsum(counts)
        if ends[-1] > len(part.pages.host):
            raise OutOfMemory(f"layer {layer_idx} needs {counts.sum()} KV pages, {len(part.pages.host)} were admitted")
        start, part.used = part.used, int(ends[-1])
        part.starts[layer_idx] = ends - counts
        part.tokens[layer_idx] = tokens
        return part.pages.host[start : part.used].astype(np.int32, copy=False)

    def seal(self, slot: int) -> None:
        """Finish a part after all layers are placed: free its unneeded pages and make it readable."""
        part = self.part(slot)
        self.free.give(part.pages.host[part.used :].astype(np.int32, copy=False))
        part.pages.host = part.pages.host[: part.used]
        self._show(slot, part)

    def fork(self, slot: int, new_tokens: int) -> int:
        """Take a slot that reads the same part. It has its own ring and room for `new_tokens` generated tokens.

        The caller must copy the ring's tokens. Raises OutOfMemory with nothing taken.
        """
        in_ring = self.ring.written(slot)
        needed = self.paging.tail(new_tokens) + self.paging.ring(in_ring + new_tokens)
        if needed > len(self.free) or not self._free_slots:
            raise OutOfMemory(f"{needed} KV pages are needed and {len(self.free)} of {self.free.count} are free")
        to = self._free_slots.pop()
        part = self.part(slot)
        part.users += 1
        self._hold(to, part)
        self._show(to, part)
        self.tail.reserve(to, new_tokens, self.free)
        self.ring.reserve(to, in_ring + new_tokens, self.free)
        self.ring.begin(to, in_ring)
        return to

    def append(self, slots: Ints) -> None:
        """Make room for one token in every row of `slots`. Raises OutOfMemory with nothing appended."""
        if (short := self.short(slots)) > len(self.free):
            raise OutOfMemory(f"a step needs {short} KV pages and {len(self.free)} of {self.free.count} are free")
        self.tail.append(slots, self.free)
        self.ring.append(slots, self.free)

    def undo(self, slots: Ints) -> None:
        """Undo the last `append` of these slots."""
        self.tail.undo(slots)
        self.ring.undo(slots)

    def release(self, slot: int) -> None:
        """Remove a sequence and free its pages. A part that other sequences read is kept."""
        part = self.part(slot)
        self._parts[slot] = None
        self._free_slots.append(slot)
        part.users -= 1
        if not part.users:
            self.free.give(part.pages.host.astype(np.int32, copy=False))
        self.tail.clear(slot, self.free)
        self.ring.clear(slot, self.free)

    def part_rows(self, slot: int, layer_idx: int) -> tuple[Int32s, Int32s]:
        """Return the pages of a layer's rows, (n,) int32, head by head, and each row's token count, (num_kv_heads,)."""
        part = None if slot == self.slots else self.part(slot)
        if part is None:
            none = np.zeros(self.shape.num_kv_heads, dtype=np.int32)
            return none[:0], none
        tokens, start = part.tokens[layer_idx], int(part.starts[layer_idx, 0])
        return part.pages.host[start : start + int((-(-tokens // self.page_tokens)).sum())].astype(np.int32), tokens

    def _new_part(self, pages: int) -> Part:
        shape = (self.shape.num_layers, self.shape.num_kv_heads)
        own = SharedInts((pages,), self._device)
        own.host[:] = self.free.take(pages)
        own.send()
        return Part(own, np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32))

    def _hold(self, slot: int, part: Part) -> None:
        self._parts[slot] = part
        self.part_tokens.host[:, slot] = 0
        self.part_tokens.send()

    def _show(self, slot: int, part: Part) -> None:
        """Send the locations of a slot's part rows to the device."""
        self.part_pages.host[slot] = part.pages.device.data_ptr()
        self.part_starts.host[:, slot] = part.starts
        self.part_tokens.host[:, slot] = part.tokens
        for shared in (self.part_pages, self.part_starts, self.part_tokens):
            shared.send()

    def part(self, slot: int) -> Part:
        part = self._parts[slot]
        if part is None:
            raise ValueError(f"slot {slot} holds no sequence")
        return part
