"""One layer's keys and values, in blocks of token slots."""

from __future__ import annotations

from dataclasses import astuple
from functools import cached_property

import torch
from torch.nn.functional import embedding_bag

from headmap.budgets import Ints
from headmap.kvcache.blocks import Assigned


class LayerStore:
    """Tensors of one layer.

    keys, values: (blocks, block_size, head_dim). owner: (blocks,) int64, the row each block belongs to. bias: (blocks,
    block_size) float32, 0 where a slot holds a token and -inf where it does not: added to the logits, it masks free
    slots without any length being looked up. A free block is masked as a whole and holds zeros, since 0 x NaN is NaN:
    what a former owner left reaches nobody; it counts as row 0's, so that kernels can run over a store as it lies.
    table: (rows, width) int32, the blocks of each row in order; counts: (rows,) int32, how many of its entries count.
    `moves` counts how often tensors were made anew: whoever holds their addresses looks at it. used: no block from this
    one on was ever taken, so attention may stop there.
    """

    def __init__(self, block_size: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.empty((0, block_size, head_dim), dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.owner = torch.zeros(0, dtype=torch.int64, device=device)
        self.bias = torch.empty((0, block_size), dtype=torch.float32, device=device)
        self.table = torch.zeros((0, 0), dtype=torch.int32, device=device)
        self.counts = torch.zeros(0, dtype=torch.int32, device=device)
        self.moves = 0
        self.used = 0
        self._in_use: UsedBlocks | None = None

    def resize(self, blocks: int) -> None:
        """Make room for `blocks` blocks; what is there stays. Where memory runs out, nothing has changed."""
        if blocks <= len(self.owner):
            return
        self.owner, self.bias, self.keys, self.values = [_longer(*part, blocks) for part in self._when_free]
        self.moves += 1
        self._in_use = None

    def assign(self, assigned: Assigned) -> None:
        """Give free blocks to rows."""
        if not len(assigned.blocks):
            return
        blocks, rows, positions = (self._index(a) for a in (assigned.blocks, assigned.rows, assigned.positions))
        self.owner.index_copy_(0, blocks, rows)
        self.used = max(self.used, int(assigned.blocks.max()) + 1)
        self._widen_table(int(assigned.rows.max()) + 1, int(assigned.positions.max()) + 1)
        self.table[rows, positions] = blocks.int()
        self.counts.scatter_reduce_(0, rows, positions.int() + 1, "amax")
        self._in_use = None

    def write(self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put tokens into slots. `places`: (n,) int64; `keys` and `values`: (n, head_dim)."""
        self.keys.view(-1, self.keys.shape[-1]).index_copy_(0, places, keys)
        self.values.view(-1, self.values.shape[-1]).index_copy_(0, places, values)
        self.bias.view(-1).index_fill_(0, places, 0.0)

    def read(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of the keys and values in slots, (n, head_dim) each. `places`: (n,) int64."""
        return (
            self.keys.view(-1, self.keys.shape[-1])[places],
            self.values.view(-1, self.values.shape[-1])[places],
        )

    def row(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of one row's keys and values, (n, head_dim) each, in the order they lie in."""
        blocks = self.owner == row
        held = self.bias[blocks] == 0
        return self.keys[blocks][held], self.values[blocks][held]

    def in_use(self, rows: int) -> UsedBlocks:
        """The blocks below `used`, for attention over `rows` rows; good until blocks change hands."""
        if self._in_use is None or self._in_use.rows != rows:
            self._in_use = UsedBlocks(self, rows)
        return self._in_use

    def free(self, first_row: int, rows: int) -> None:
        """Free the blocks of `rows` rows from `first_row` on."""
        gone = ((self.owner >= first_row) & (self.owner < first_row + rows)).nonzero()[:, 0]
        for tensor, value in self._when_free:
            tensor.index_fill_(0, gone, value)
        self.counts[first_row : first_row + rows] = 0
        self._in_use = None

    def take_back(self, assigned: Assigned) -> None:
        """Undo the last `assign`, as far as it came. It takes no memory: there may be none left."""
        for block, row, position in zip(*(a.tolist() for a in astuple(assigned)), strict=True):
            if block < len(self.owner):
                for tensor, value in self._when_free:
                    tensor[block].fill_(value)
            if row < len(self.counts):
                self.counts[row].fill_(position)
        self._in_use = None

    def keep_blocks(self, blocks: Ints) -> None:
        """Keep only these blocks, in this order; the memory of the others goes back.

        That takes room for both: where there is none, nothing has changed.
        """
        index = self._index(blocks)
        moved = torch.zeros(len(self.owner), dtype=torch.int32, device=self.owner.device)
        moved[index] = torch.arange(len(index), dtype=torch.int32, device=self.owner.device)
        table, keys, values = moved[self.table.long()], self.keys[index], self.values[index]
        self.owner, self.bias = self.owner[index], self.bias[index]
        self.table, self.keys, self.values = table, keys, values
        self.used = len(blocks)
        self.moves += 1
        self._in_use = None

    def _widen_table(self, rows: int, width: int) -> None:
        had_rows, had_width = self.table.shape
        if rows <= had_rows and width <= had_width:
            return
        self.moves += 1
        # Twice what is needed where it grows: not at every block of the longest row.
        size = (rows if rows <= had_rows else 2 * rows, had_width if width <= had_width else 2 * width)
        table = self.table.new_zeros((max(size[0], had_rows), max(size[1], had_width)))
        table[:had_rows, :had_width] = self.table
        counts = self.counts.new_zeros(len(table))
        counts[:had_rows] = self.counts
        self.table, self.counts = table, counts

    @property
    def _when_free(self) -> tuple[tuple[torch.Tensor, float], ...]:
        return (self.owner, 0), (self.bias, -torch.inf), (self.keys, 0), (self.values, 0)

    def _index(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(self.owner.device)


def _longer(tensor: torch.Tensor, filler: float, length: int) -> torch.Tensor:
    longer = tensor.new_empty((length, *tensor.shape[1:]))
    longer[: len(tensor)] = tensor
    longer[len(tensor) :] = filler
    return longer


class UsedBlocks:
    """The blocks that attention runs over: views into a store, and what follows from who owns them.

    owner: (used,); keys, values: (used, block_size, head_dim); bias: (used, block_size).
    """

    def __init__(self, store: LayerStore, rows: int) -> None:
        self.rows = rows
        self.owner, self.bias = store.owner[: store.used], store.bias[: store.used]
        self.keys, self.values = store.keys[: store.used], store.values[: store.used]

    @cached_property
    def apart(self) -> torch.Tensor:
        """(rows, used, 1) float32, 0 where a block is the row's and -inf where it is another's."""
        own = self.owner == torch.arange(self.rows, device=self.owner.device)[:, None]
        return torch.zeros_like(own, dtype=torch.float32).masked_fill_(~own, -torch.inf)[..., None]

    def sum_by_row(self, parts: torch.Tensor) -> torch.Tensor:
        """The sum of each row's blocks, (rows, ...) float32. `parts`: (used, ...) float32, one for each block."""
        # Rows are bags of blocks, sorted when blocks change hands: index_add_ takes several times as long.
        order, starts = self.by_row
        summed = embedding_bag(order, parts.flatten(1), starts, mode="sum", include_last_offset=True)
        return summed.view(self.rows, *parts.shape[1:])

    @cached_property
    def by_row(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The blocks by row, (used,) int64, and where each row starts, (rows + 1,) int64."""
        owners, order = self.owner.sort(stable=True)
        return order, torch.searchsorted(owners, torch.arange(self.rows + 1, device=owners.device))
