"""Ways to attend over heads of different length on a CPU, for one decode step's attention alone.

Each way gets its keys and values in its own layout. The cost of keeping that layout while sequences grow is not
counted: a padded block would have to be made anew. `torch` and `native` are ours, over the pool's pages as they lie,
and write the step's own token too. All give the same output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from benchmarks.efficiency.equal_bytes import filled_ragged, models
from benchmarks.report import Recorder, in_turn, milliseconds
from headmap.kvcache.backends import DecodeBackend, make_backend
from headmap.kvcache.pool.pool import Pool
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.generate import cache_shape

CLOSE = 1.25
"""Rows whose lengths differ by no more than this are padded to the same."""

BATCHES = (1, 8)
MOST_PADDED = 4 * 2**30

Attention = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Bucket:
    """Rows padded to one length. rows: (r,) int64; keys, values: (r, 1, n, d); mask: (r, 1, 1, n), 0 or -inf."""

    rows: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor


def measure(
    record: Recorder,
    *,
    budgets: Sequence[int] = (256, 1024),
    repeats: int = 15,
) -> None:
    for model, place in models():
        for batch, budget in product(BATCHES, budgets):
            ragged = filled_ragged(model, cache_shape(model), batch, budget)
            found = compare(ragged, batch, model.config.num_attention_heads, repeats)
            said = ", ".join(f"{way} {ms:.1f}" for way, ms in found["ms"].items())
            row = {"what": "ways", **place, "batch": batch, "budget": budget, **found}
            record.add(row, f"{place['dtype']}  {place['shape']}  batch {batch}  B {budget}  {said} ms a step")


@torch.inference_mode()
def compare(ragged: RaggedCache, batch: int, num_heads: int, repeats: int) -> dict[str, Any]:
    """Milliseconds a step, all layers together, by way; `padding`: bytes of one padded block a layer over kept bytes.

    `padded` is left out where these blocks would take more than MOST_PADDED, `native` where it cannot be compiled.
    """
    pool, books, shape = ragged.pool, ragged.books, ragged.shape
    heads, d, dtype = shape.num_kv_heads, shape.head_dim, pool.keys.dtype
    rows, slots = batch * heads, torch.arange(batch)
    queries = torch.randn(batch, heads, num_heads // heads, d).to(dtype)
    new_keys, new_values = (torch.randn(batch, heads, d).to(dtype) for _ in "kv")
    by_row = queries.view(rows, -1, d)
    books.append(slots.numpy())
    lengths = np.stack([books.lengths(slot) for slot in range(batch)], axis=1).reshape(-1, rows)
    padding = float(lengths.max(1).sum() * rows / lengths.sum())
    ours = backends(pool)
    ways: dict[str, list[Attention]] = {way: [] for way in ("each row", "buckets", "padded", *ours)}
    if padding * lengths.sum() * shape.token_bytes > MOST_PADDED:
        del ways["padded"]
    for layer_idx, own in enumerate(lengths.tolist()):
        for way, backend in ours.items():
            step = partial(backend.attend, layer_idx, slots, queries, new_keys, new_values, d**-0.5)
            step()  # the step's token lies in the pages before rows are read
            ways[way].append(step)
        held = [pool.row(slot, layer_idx, head) for slot in range(batch) for head in range(heads)]
        ways["each row"].append(partial(each_row, by_row, held))
        for way, groups in (("buckets", alike(own)), ("padded", [list(range(rows))])):
            if way in ways:
                ways[way].append(partial(by_bucket, by_row, [bucket(held, group) for group in groups]))
    seconds = in_turn({way: partial(_all, layers) for way, layers in ways.items()}, repeats)
    return {"ms": {way: milliseconds(took) for way, took in seconds.items()}, "padding": padding}


def backends(pool: Pool) -> dict[str, DecodeBackend]:
    """Our own ways: the native one where there is a compiler."""
    found = {"torch": make_backend("torch", pool)}
    try:
        return found | {"native": make_backend("native", pool)}
    except ImportError:
        return found


def _all(layers: Sequence[Attention]) -> None:
    for attend in layers:
        attend()


def each_row(queries: torch.Tensor, held: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """One call of sdpa a row. `queries`: (rows, g, d). Returns the same shape."""
    return torch.cat([
        scaled_dot_product_attention(own[None, None], keys[None, None], values[None, None])[0]
        for own, (keys, values) in zip(queries, held, strict=True)
    ])  # fmt: skip


def by_bucket(queries: torch.Tensor, buckets: Sequence[Bucket]) -> torch.Tensor:
    """One call of sdpa a bucket."""
    output = torch.empty_like(queries)
    for one in buckets:
        own = queries.index_select(0, one.rows)[:, None]
        mask = one.mask.expand(-1, -1, own.shape[2], -1)
        output[one.rows] = scaled_dot_product_attention(own, one.keys, one.values, attn_mask=mask)[:, 0]
    return output


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of like length."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if groups and lengths[row] <= CLOSE * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def bucket(held: Sequence[tuple[torch.Tensor, torch.Tensor]], rows: Sequence[int]) -> Bucket:
    keys, values = (pad_sequence([held[row][part] for row in rows], batch_first=True) for part in (0, 1))
    zeros = [torch.zeros(len(held[row][0]), dtype=keys.dtype) for row in rows]
    mask = torch.stack([pad(one, (0, keys.shape[1] - len(one)), value=-torch.inf) for one in zeros])
    return Bucket(torch.tensor(rows), keys[:, None], values[:, None], mask[:, None, None])
