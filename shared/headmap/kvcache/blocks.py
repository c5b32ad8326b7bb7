"""The ragged cache's bookkeeping: which block belongs to which (sequence, KV head). Integers only, no tensors.

A layer's keys and values lie in blocks of `block_size` token slots. Each block belongs to one row, a (sequence, KV
head) pair; a row holds as many blocks as its own length needs. The row of sequence slot s and KV head h is
s x num_kv_heads + h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headmap.budgets import Ints
from headmap.errors import OutOfMemory
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.ring import Ring
from headmap.kvcache.shape import CacheShape

FREE = -1
"""The owner of a block that belongs to no row."""


@dataclass(frozen=True)
class Assigned:
    """Blocks given to rows in one layer, and the how-manieth of its row each is: all (n,) int64."""

    blocks: Ints
    rows: Ints
    positions: Ints


class BlockTables:
    """Lengths, blocks and reservations of all sequences. Not thread-safe: one engine thread owns it.

    `capacity_blocks` bounds the blocks reserved over all layers; None means no bound. A layer that runs out of blocks
    gets what is missing, or `growth` of what it has where that is more.
    """

    def __init__(
        self, shape: CacheShape, block_size: int, capacity_blocks: int | None = None, *, growth: float = 1 / 8
    ) -> None:
        self.shape = shape
        self.block_size = block_size
        self.capacity_blocks = capacity_blocks
        self.growth = growth
        self.owner: list[Ints] = [np.zeros(0, dtype=np.int64) for _ in range(shape.num_layers)]
        self.lengths = np.zeros((shape.num_layers, 0, shape.num_kv_heads), dtype=np.int64)
        self._write_at = np.zeros_like(self.lengths)
        self._reserved: list[int | None] = []
        self._ring = Ring(shape, block_size)
        self._sliding = np.isin(np.arange(shape.num_layers), self._ring.layers)

    # ---- admission

    def blocks_for(self, plan: KeepPlan, new_tokens: int, before: Ints | None = None) -> int:
        """Blocks that a sequence of this plan holds at most, once `new_tokens` have been appended to every head.

        `before`: (num_layers, num_kv_heads) int64, tokens that the heads hold already.
        """
        held = plan.tokens + new_tokens + (0 if before is None else before)
        if self.shape.window is not None:
            held[self._sliding] = np.minimum(held[self._sliding], self.shape.window)
        blocks = (-(-held // self.block_size)).sum(1)
        if plan.shared_out_by_prompt and not plan.keeps_all:
            # Only the layers' sums are known: each head may waste all but one slot of its last block.
            slack = self.shape.num_kv_heads * (self.block_size - 1)
            blocks = np.where(self._sliding, blocks, (held.sum(1) + slack) // self.block_size)
        return int(blocks.sum())

    @property
    def reserved_blocks(self) -> int:
        return sum(blocks or 0 for blocks in self._reserved)

    def fits(self, blocks: int) -> bool:
        """Whether `blocks` more can be reserved now."""
        return self.capacity_blocks is None or self.reserved_blocks + blocks <= self.capacity_blocks

    def admit(self, blocks: int) -> int:
        """Reserve `blocks` and return the sequence's slot. Raises OutOfMemory where they do not fit."""
        if not self.fits(blocks):
            raise OutOfMemory(f"{blocks} KV blocks do not fit beside {self.reserved_blocks} of {self.capacity_blocks}")
        if None in self._reserved:
            slot = self._reserved.index(None)
            self._reserved[slot] = blocks
        else:
            slot = len(self._reserved)
            self._reserved.append(blocks)
            room = np.zeros((self.shape.num_layers, 1, self.shape.num_kv_heads), dtype=np.int64)
            self.lengths = np.concatenate([self.lengths, room], axis=1)
            self._write_at = np.concatenate([self._write_at, room], axis=1)
            self._ring.resize(slot + 1)
        self.lengths[:, slot] = 0
        self._ring.clear(slot)
        return slot

    def release(self, slot: int) -> None:
        """Give a sequence's blocks back."""
        for layer_idx in range(self.shape.num_layers):
            self.empty(layer_idx, slot)
        self._ring.clear(slot)
        self._reserved[slot] = None
        keep = len(self._reserved)
        while keep and self._reserved[keep - 1] is None:
            keep -= 1
        del self._reserved[keep:]
        self.lengths, self._write_at = self.lengths[:, :keep].copy(), self._write_at[:, :keep].copy()
        self._ring.resize(keep)

    # ---- rows and blocks

    @property
    def num_slots(self) -> int:
        return len(self._reserved)

    @property
    def num_rows(self) -> int:
        """Rows that kernels work on, for a power of two of sequences: it seldom changes."""
        slots = 1 << (self.num_slots - 1).bit_length() if self.num_slots else 0
        return slots * self.shape.num_kv_heads

    def last_places(self, slot: int) -> Ints:
        """Where the last token of each head of a sequence lies, (num_layers, num_kv_heads) int64."""
        return self._write_at[:, slot] - 1

    def used_blocks(self, layer_idx: int) -> int:
        return int(np.count_nonzero(self.owner[layer_idx] != FREE))

    def place(self, layer_idx: int, slot: int, counts: Ints) -> tuple[Ints, Assigned]:
        """Make room for `counts` more tokens in the heads of one sequence: what a layer keeps of a prompt.

        `counts`: (num_kv_heads,) int64; in a sliding layer at most a window, into rows that are empty. Returns the
        token slots to write to, (sum of counts,) int64, head by head in order, and the blocks assigned.
        """
        size = self.block_size
        room = np.minimum(-self.lengths[layer_idx, slot] % size, counts)  # left in each head's last block
        blocks = -(-(counts - room) // size)
        rows = slot * self.shape.num_kv_heads + np.repeat(np.arange(len(counts)), blocks)
        held = -(-self.lengths[layer_idx, slot] // size)
        positions = np.arange(len(rows)) - np.repeat(np.cumsum(blocks) - blocks - held, blocks)
        assigned = self._assign(layer_idx, rows, positions)
        index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        fresh = index - np.repeat(room, counts)
        places = np.repeat(self._write_at[layer_idx, slot], counts) + index
        beyond = fresh >= 0
        first_block = np.repeat(np.cumsum(blocks) - blocks, counts)[beyond]
        places[beyond] = assigned.blocks[first_block + fresh[beyond] // size] * size + fresh[beyond] % size
        self.lengths[layer_idx, slot] += counts
        filled = counts > 0
        self._write_at[layer_idx, slot, filled] = places[np.cumsum(counts)[filled] - 1] + 1
        if self._sliding[layer_idx]:
            self._ring.begin(layer_idx, slot, assigned.blocks, int(counts[0]))
        return places, assigned

    def empty(self, layer_idx: int, slot: int) -> None:
        """Give one layer's blocks of a sequence back."""
        first = slot * self.shape.num_kv_heads
        owner = self.owner[layer_idx]
        owner[(owner >= first) & (owner < first + self.shape.num_kv_heads)] = FREE
        self.lengths[layer_idx, slot] = 0

    def in_order(self, layer_idx: int, slot: int) -> Ints | None:
        """(num_kv_heads, n) int64: the token slots of a sliding layer's rows, oldest token first; None for others."""
        return self._ring.in_order(layer_idx, slot) if self._sliding[layer_idx] else None

    def append(self, slots: Ints) -> tuple[Ints, dict[int, Assigned]]:
        """Make room for one token in every head of `slots`; where a sliding layer holds its window, the oldest's.

        Returns the token slots, (num_layers, len(slots), num_kv_heads) int64, and the blocks assigned by layer.
        """
        grows = np.ones((self.shape.num_layers, len(slots), self.shape.num_kv_heads), dtype=bool)
        if self.shape.window is not None:
            grows[self._sliding] = self.lengths[self._sliding][:, slots] < self.shape.window
        full = grows & (self.lengths[:, slots] % self.block_size == 0)
        assigned: dict[int, Assigned] = {}
        for layer_idx in np.flatnonzero(full.any(axis=(1, 2))).tolist():
            sequence, head = np.nonzero(full[layer_idx])
            rows = slots[sequence] * self.shape.num_kv_heads + head
            positions = self.lengths[layer_idx, slots[sequence], head] // self.block_size
            assigned[layer_idx] = self._assign(layer_idx, rows, positions)
            self._write_at[layer_idx, slots[sequence], head] = assigned[layer_idx].blocks * self.block_size
            if self._sliding[layer_idx]:
                self._ring.extend(layer_idx, slots[sequence], head, assigned[layer_idx].blocks)
        places = self._write_at[:, slots]
        places[self._sliding] = self._ring.advance(slots)
        self._write_at[:, slots] += grows
        self.lengths[:, slots] += grows
        return places, assigned

    def take_back(self, slots: Ints) -> dict[int, Assigned]:
        """Undo the last `append`, which was of these slots; returns the blocks it assigned by layer."""
        grew = np.ones((self.shape.num_layers, len(slots), self.shape.num_kv_heads), dtype=bool)
        grew[self._sliding] = self._ring.retreat(slots)[:, None]
        self._write_at[:, slots] -= grew
        self.lengths[:, slots] -= grew
        opened = grew & (self.lengths[:, slots] % self.block_size == 0)
        taken: dict[int, Assigned] = {}
        for layer_idx in np.flatnonzero(opened.any(axis=(1, 2))).tolist():
            sequence, head = np.nonzero(opened[layer_idx])
            blocks = self._write_at[layer_idx, slots[sequence], head] // self.block_size
            positions = self.lengths[layer_idx, slots[sequence], head] // self.block_size
            taken[layer_idx] = Assigned(blocks, slots[sequence] * self.shape.num_kv_heads + head, positions)
            self.owner[layer_idx][blocks] = FREE
        return taken

    def limit(self, layer_idx: int, blocks: int) -> None:
        """Hand out none but the first `blocks` blocks of a layer, before there are more; the others must be free."""
        self.owner[layer_idx] = self.owner[layer_idx][:blocks]

    def _assign(self, layer_idx: int, rows: Ints, positions: Ints) -> Assigned:
        """Lowest free blocks first, so that a store stays dense at its front."""
        owner = self.owner[layer_idx]
        free = np.flatnonzero(owner == FREE)[: len(rows)]
        if len(free) < len(rows):
            missing = len(rows) - len(free)
            grown = max(missing, int(len(owner) * self.growth))
            free = np.concatenate([free, np.arange(len(owner), len(owner) + missing)])
            self.owner[layer_idx] = owner = np.concatenate([owner, np.full(grown, FREE)])
        owner[free] = rows
        return Assigned(free, rows, positions)

    def scattered(self, layer_idx: int) -> Ints | None:
        """The used blocks of a layer where more than half lie free, else None."""
        owner = self.owner[layer_idx]
        stay = np.flatnonzero(owner != FREE)
        return stay if 2 * len(stay) < len(owner) else None

    def compact(self, layer_idx: int, stay: Ints) -> None:
        """Move a layer's used blocks to the front. `stay`: their indices, in their new order."""
        owner = self.owner[layer_idx]
        moved = np.zeros(len(owner), dtype=np.int64)
        moved[stay] = np.arange(len(stay))
        self.owner[layer_idx] = owner[stay]
        self._ring.move(layer_idx, moved)
        partly = self.lengths[layer_idx] % self.block_size != 0
        places = self._write_at[layer_idx]
        blocks, offsets = np.divmod(places[partly], self.block_size)
        places[partly] = moved[blocks] * self.block_size + offsets
