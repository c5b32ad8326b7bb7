"""Decode attention in plain torch operations. It runs on any device with any float dtype and builds no kernel.

Each page is attended to by the queries of its row. The results of a row's pages are combined by log-sum-exp. Pages are
gathered first, so a step copies all the keys and values that it reads. This backend is the fallback and the reference
for the kernels.
"""

from __future__ import annotations

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.pool.pool import Pool


class TorchBackend(DecodeBackend):
    name = "torch"

    @staticmethod
    def missing(pool: Pool) -> str | None:
        return None

    def attend(
        self,
        layer_idx: int,
        slots: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        self._write(layer_idx, slots, keys, values)
        sequences, heads, group, d = queries.shape
        rows = sequences * heads
        pages, row_of, counts = (self._index(ints) for ints in self._read(layer_idx, slots.tolist()))
        places = torch.arange(self.pool.page_tokens, device=slots.device)
        free = (places >= counts[:, None])[:, None]
        own = queries.float().reshape(rows, group, d).index_select(0, row_of) * scaling
        logits = torch.bmm(own, self.pool.keys.index_select(0, pages).float()).masked_fill_(free, -torch.inf)
        index = row_of[:, None].expand(-1, group)
        peak = logits.new_full((rows, group), -torch.inf).scatter_reduce_(0, index, logits.amax(-1), "amax")
        weights = logits.sub_(peak.index_select(0, row_of)[..., None]).exp_()
        total = torch.zeros_like(peak).scatter_add_(0, index, weights.sum(-1))
        kept = self.pool.values.index_select(0, pages).float().masked_fill_(free.transpose(1, 2), 0.0)
        output = own.new_zeros((rows, group, d)).index_add_(0, row_of, torch.bmm(weights, kept))
        return output.div_(total[..., None]).to(queries.dtype).view_as(queries)

    def _write(self, layer_idx: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        tails, size = self.pool.books.tails_of(layer_idx), self.pool.page_tokens
        place = tails.write_at.device[slots].long()
        chunk = tails.chunks.device[slots, place // size].long()
        first = tails.first_row(layer_idx)
        page = tails.chunk_pages.device[chunk, first : first + keys.shape[1]].long()
        offset = (place % size)[:, None]
        self.pool.keys[page, :, offset] = keys
        self.pool.values[page, offset] = values

    def _read(self, layer_idx: int, slots: list[int]) -> tuple[Ints, Ints, Ints]:
        """Return the pages of all rows, the row of each page, and the number of used places in each page: (n,) int64
        each.
        """
        books, size = self.pool.books, self.pool.page_tokens
        tails, heads = books.tails_of(layer_idx), self.pool.shape.num_kv_heads
        pages, counts, lengths = [], [], []
        for slot in slots:
            part_pages, part_tokens = books.part_rows(slot, layer_idx)
            held = int(tails.tokens.host[slot])
            tail_pages = tails.pages(slot, layer_idx, held)
            pages += [part_pages, tail_pages.reshape(-1)]
            counts += [-(-part_tokens // size), np.full(heads, tail_pages.shape[1])]
            lengths += [part_tokens, np.full(heads, held)]
        pages_of = np.concatenate(counts).astype(np.int64)
        order = np.arange(pages_of.sum()) - np.repeat(np.cumsum(pages_of) - pages_of, pages_of)
        left = np.repeat(np.concatenate(lengths), pages_of) - order * size
        rows = np.arange(len(slots) * heads).reshape(len(slots), 1, heads).repeat(2, axis=1).reshape(-1)
        return (
            np.concatenate(pages).astype(np.int64),
            np.repeat(rows, pages_of),
            np.minimum(left, size).astype(np.int64),
        )

    def _index(self, ints: Ints) -> torch.Tensor:
        return torch.from_numpy(ints).to(self.pool.device)
