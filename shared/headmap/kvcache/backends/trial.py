"""A synthetic step to test a backend: sequences with the model's shape, and the correct attention output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.kvcache.backends.base import DecodeBackend
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.pool.free import Int32s
from headmap.kvcache.pool.pool import Pool


@dataclass(frozen=True)
class Trial:
    """One step over a pool that holds synthetic sequences in `slots`. `DecodeBackend.attend` lists the shapes."""

    pool: Pool
    slots: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scaling: float

    def run(self, backend: DecodeBackend, layer_idx: int) -> torch.Tensor:
        return backend.attend(layer_idx, self.slots, self.queries, self.keys, self.values, self.scaling)

    def forget(self, layer_idx: int) -> None:
        """Fill the places of the step's tokens with NaN, so that the step has to write them."""
        tails, size = self.pool.books.tails_of(layer_idx), self.pool.page_tokens
        for slot in self.slots.tolist():
            place = int(tails.write_at.host[slot])
            first = tails.first_row(layer_idx)
            rows = tails.chunk_pages.host[tails.chunks.host[slot, place // size], first:]
            pages = torch.from_numpy(rows[: self.pool.shape.num_kv_heads].astype(np.int64)).to(self.pool.device)
            self.pool.keys[pages, :, place % size] = torch.nan
            self.pool.values[pages, place % size] = torch.nan

    def expected(self, layer_idx: int) -> torch.Tensor:
        """Compute the step's output in float64. The step's tokens need not be written yet."""
        outputs = torch.zeros_like(self.queries, dtype=torch.float64)
        books = self.pool.books
        tails = books.tails_of(layer_idx)
        for index, slot in enumerate(self.slots.tolist()):
            if slot == books.slots:
                continue
            part = books.part(slot).tokens[layer_idx]
            for head in range(self.pool.shape.num_kv_heads):
                keys, values = self.pool.row(slot, layer_idx, head)
                own = int(part[head]) + int(tails.write_at.host[slot])
                keys[own], values[own] = self.keys[index, head], self.values[index, head]
                logits = self.queries[index, head].double() @ keys.double().T * self.scaling
                outputs[index, head] = logits.softmax(-1) @ values.double()
        return outputs


def make_trial(pool: Pool, parts: Sequence[Ints], generated: Sequence[int], group: int, seed: int = 0) -> Trial:
    """Admit a sequence for each entry of `parts`, with `generated` tokens after its prompt.

    `parts`: (num_layers, num_kv_heads) each, the number of tokens per head. In sliding layers this is the length of the
    prompt, the same for all heads. `generated` is at least 1, because the last generated token belongs to the step.
    Used places are filled with random numbers, unused places with NaN.
    """
    books, shape = pool.books, pool.shape
    random = torch.Generator(device=pool.device).manual_seed(seed)
    pool.keys.fill_(torch.nan)
    pool.values.fill_(torch.nan)
    slots = []
    for tokens, new in zip(parts, generated, strict=True):
        most = int(tokens.max())
        plan = KeepPlan("full", most, most, 0, "exact", tokens.astype(np.int64), np.full(shape.num_layers, most))
        slot = books.admit(plan, new)
        slots.append(slot)
        for layer_idx in shape.budgeted_layers:
            pages = books.place(slot, layer_idx, tokens[layer_idx])
            _fill(pool, pages, -(-tokens[layer_idx] // pool.page_tokens), tokens[layer_idx], random)
        books.seal(slot)
        in_ring = int(tokens[list(shape.sliding_layers)].max()) if shape.sliding_layers else 0
        for tails, before in ((books.tail, 0), (books.ring, in_ring)):
            tails.begin(slot, before + new - 1)
            for layer_idx in tails.layers:
                held = int(tails.tokens.host[slot])
                pages = tails.pages(slot, layer_idx, held)
                counts = np.full(shape.num_kv_heads, held)
                _fill(pool, pages.reshape(-1), np.full(shape.num_kv_heads, pages.shape[1]), counts, random)
    books.append(np.array(slots))
    heads, d = shape.num_kv_heads, shape.head_dim
    queries = _normal(pool, random, len(slots), heads, group, d)
    keys, values = (_normal(pool, random, len(slots), heads, d) for _ in "kv")
    return Trial(pool, torch.tensor(slots, device=pool.device), queries, keys, values, d**-0.5)


def _normal(pool: Pool, random: torch.Generator, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=random, device=pool.device).to(pool.keys.dtype)


def _fill(pool: Pool, pages: Int32s, pages_of_row: Ints, tokens: Ints, random: torch.Generator) -> None:
    """Write random keys and values to the first `tokens` places of each row. `pages` lists the rows' pages in order."""
    if not len(pages):
        return
    keys, values = (_normal(pool, random, len(pages), pool.page_tokens, pool.shape.head_dim) for _ in "kv")
    index = np.arange(len(pages)) - np.repeat(np.cumsum(pages_of_row) - pages_of_row, pages_of_row)
    left = np.repeat(tokens, pages_of_row) - index * pool.page_tokens
    free = torch.from_numpy(np.arange(pool.page_tokens) >= left[:, None]).to(pool.device)
    pool.write(pages, keys.masked_fill(free[..., None], torch.nan), values.masked_fill(free[..., None], torch.nan))
