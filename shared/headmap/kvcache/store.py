"""One layer's keys and values, in blocks of token slots."""

from __future__ import annotations

import torch
from torch.nn.functional import embedding_bag

from headmap.budgets import Ints
from headmap.kvcache.blocks import Assigned


class LayerStore:
    """Tensors of one layer.

    keys, values: (blocks, block_size, head_dim). owner: (blocks,) int64, the row each block belongs to, 0 where free.
    bias: (blocks, block_size) float32, 0 where a slot holds a token and -inf where it does not: added to the logits, it
    masks free slots without any length being looked up. table: (rows, width) int32, the blocks of each row in order;
    counts: (rows,) int32, how many of its entries count. `moves` counts how often tensors were made anew: whoever holds
    their addresses looks at it. used: no block from this one on is taken, so attention may stop there.
    sorted: what `by_row` found, until blocks change hands.
    """

    def __init__(self, block_size: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.empty((0, block_size, head_dim), dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.owner = torch.zeros(0, dtype=torch.int64, device=device)
        self.bias = torch.empty((0, block_size), dtype=torch.float32, device=device)
        self.table = torch.zeros((0, 0), dtype=torch.int32, device=device)
        self.counts = torch.zeros(0, dtype=torch.int32, device=device)
        self.moves = 0
        self.sorted: tuple[torch.Tensor, torch.Tensor] | None = None
        self.used = 0

    def resize(self, blocks: int) -> None:
        """Make room for `blocks` blocks; what is there stays. Where memory runs out, nothing has changed."""
        more = blocks - len(self.owner)
        if more <= 0:
            return
        keys = torch.cat([self.keys, self.keys.new_zeros((more, *self.keys.shape[1:]))])
        values = torch.cat([self.values, self.values.new_zeros((more, *self.values.shape[1:]))])
        owner = torch.cat([self.owner, self.owner.new_zeros(more)])
        bias = torch.cat([self.bias, self.bias.new_full((more, self.bias.shape[1]), -torch.inf)])
        self.keys, self.values, self.owner, self.bias = keys, values, owner, bias
        self.moves += 1

    def assign(self, assigned: Assigned) -> None:
        """Give blocks to rows; what lay in them is gone."""
        self.sorted = None
        blocks, rows, positions = (self._index(a) for a in (assigned.blocks, assigned.rows, assigned.positions))
        self.owner[blocks] = rows
        if len(blocks):
            self.used = max(self.used, int(assigned.blocks.max()) + 1)
            self._widen_table(int(assigned.rows.max()) + 1, int(assigned.positions.max()) + 1)
        self.table[rows, positions] = blocks.int()
        self.counts.scatter_reduce_(0, rows, positions.int() + 1, "amax")
        self.bias.index_fill_(0, blocks, -torch.inf)
        # A masked slot weighs 0, but 0 x NaN is NaN: what a former owner left must not reach this one.
        self.keys.index_fill_(0, blocks, 0)
        self.values.index_fill_(0, blocks, 0)

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

    @property
    def in_use(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """owner, keys, values and bias of the blocks below `used`."""
        return self.owner[: self.used], self.keys[: self.used], self.values[: self.used], self.bias[: self.used]

    def sum_by_row(self, parts: torch.Tensor, rows: int) -> torch.Tensor:
        """The sum of each row's blocks, (rows, ...) float32. `parts`: (used, ...) float32, one for each block."""
        # Rows are bags of blocks, sorted when blocks change hands: index_add_ takes several times as long.
        order, starts = self.by_row(rows)
        summed = embedding_bag(order, parts.flatten(1), starts, mode="sum", include_last_offset=True)
        return summed.view(rows, *parts.shape[1:])

    def by_row(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The blocks below `used` by row, (used,) int64, and where each of `rows` rows starts, (rows + 1,) int64."""
        if self.sorted is None or len(self.sorted[1]) != rows + 1:
            owners, order = self.owner[: self.used].sort(stable=True)
            starts = torch.searchsorted(owners, torch.arange(rows + 1, device=owners.device))
            self.sorted = order, starts
        return self.sorted

    def free(self, first_row: int, rows: int) -> None:
        """Mark the blocks of `rows` rows from `first_row` on as free."""
        self.sorted = None
        gone = (self.owner >= first_row) & (self.owner < first_row + rows)
        self.owner[gone] = 0
        self.bias[gone] = -torch.inf
        self.counts[first_row : first_row + rows] = 0

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
        self.used, self.sorted = len(blocks), None
        self.moves += 1

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

    def _index(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(self.owner.device)
