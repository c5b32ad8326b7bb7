"""Rows of layers with a sliding window: once a row holds a window, each further token overwrites the oldest.

Attention does not mind the order that keys lie in, so nothing moves. Integers only, no tensors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headmap.budgets import Ints
from headmap.kvcache.shape import CacheShape


class Ring:
    """Which blocks the rows of sliding layers hold, in the order they were filled, and so which slot comes next.

    Token m of a row, counted from the first one kept, lies in place m % window. All heads of a layer go in step.
    """

    def __init__(self, shape: CacheShape, block_size: int) -> None:
        self.layers = np.array(shape.sliding_layers, dtype=np.int64)
        self._window = shape.window or 1
        self._size = block_size
        blocks = -(-self._window // block_size)
        self._blocks = np.zeros((len(self.layers), 0, shape.num_kv_heads, blocks), dtype=np.int64)
        self._written = np.zeros(0, dtype=np.int64)

    def resize(self, slots: int) -> None:
        """Room for `slots` sequences; those above are forgotten."""
        more = max(0, slots - len(self._written))
        self._written = np.pad(self._written[:slots], (0, more))
        self._blocks = np.pad(self._blocks[:, :slots], ((0, 0), (0, more), (0, 0), (0, 0)))

    def clear(self, slot: int) -> None:
        self._blocks[:, slot] = 0
        self._written[slot] = 0

    def begin(self, layer_idx: int, slot: int, blocks: Ints, tokens: int) -> None:
        """Every head of a layer holds its first `tokens` tokens. `blocks`: (n,), head by head in order."""
        by_head = blocks.reshape(self._blocks.shape[2], -1)
        self._blocks[self.layers == layer_idx, slot, :, : by_head.shape[1]] = by_head
        self._written[slot] = tokens

    def extend(self, layer_idx: int, slots: Ints, heads: Ints, blocks: Ints) -> None:
        """Each (slot, head) has got one block more. All (n,) int64."""
        index = np.flatnonzero(self.layers == layer_idx)
        self._blocks[index, slots, heads, self._written[slots] // self._size] = blocks

    def advance(self, slots: Ints) -> Ints:
        """Count one token more in each of `slots`: (len(layers), len(slots), num_kv_heads) int64, where it goes."""
        place = self._written[slots] % self._window
        self._written[slots] += 1
        block, offset = (part[None, :, None] for part in np.divmod(place, self._size))
        return np.take_along_axis(self._blocks[:, slots], block[..., None], axis=3)[..., 0] * self._size + offset

    def retreat(self, slots: Ints) -> npt.NDArray[np.bool_]:
        """Undo the last `advance` of `slots`: (len(slots),) bool, which of them hold a token less for it."""
        grew = self._written[slots] <= self._window
        self._written[slots] -= 1
        return grew

    def in_order(self, layer_idx: int, slot: int) -> Ints:
        """(num_kv_heads, n) int64: where the tokens of a layer's rows lie, oldest first."""
        written = int(self._written[slot])
        block, offset = np.divmod(np.arange(max(0, written - self._window), written) % self._window, self._size)
        return self._blocks[self.layers == layer_idx, slot][0][:, block] * self._size + offset

    def move(self, layer_idx: int, moved: Ints) -> None:
        """A layer's blocks have new indices: `moved[old]`."""
        self._blocks[self.layers == layer_idx] = moved[self._blocks[self.layers == layer_idx]]
