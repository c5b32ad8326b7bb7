"""Ways to attend over heads of different length on a CPU, for one decode step's attention alone.

Each way gets its keys and values laid out as it likes them, and is not charged for keeping them so while sequences
grow: a padded block would have to be made anew. `blocks` and `native` are ours, over the store as it lies, in torch's
operations and in C++. All give the same output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from benchmarks.efficiency.equal_bytes import filled_ragged, models
from benchmarks.report import Recorder, in_turn, milliseconds
from headmap.kvcache.backends import AUTO, Attend, get_backend
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
    """Milliseconds a step, all layers together, by way; `padding`: bytes of one padded block a layer over those kept.

    `padded` is left out where these blocks would take more than MOST_PADDED, `native` where it cannot be compiled.
    """
    heads, d, dtype = ragged.shape.num_kv_heads, ragged.shape.head_dim, ragged.layers[0].keys.dtype
    rows = batch * heads
    queries = torch.randn(rows, num_heads // heads, d).to(dtype)
    lengths = ragged.tables.lengths[:, :batch].reshape(-1, rows)
    padding = float(lengths.max(1).sum() * rows / lengths.sum())
    ours = backends()
    ways: dict[str, list[Attention]] = {way: [] for way in ("each row", "buckets", "padded", *ours)}
    if padding * lengths.sum() * ragged.shape.token_bytes > MOST_PADDED:
        del ways["padded"]
    for store, own in zip(ragged.layers, lengths.tolist(), strict=True):
        held = [store.row(row) for row in range(rows)]
        ways["each row"].append(partial(each_row, queries, held))
        for way, groups in (("buckets", alike(own)), ("padded", [list(range(rows))])):
            if way in ways:
                ways[way].append(partial(by_bucket, queries, [bucket(held, group) for group in groups]))
        for way, attend in ours.items():
            ways[way].append(partial(attend, queries, store, d**-0.5))
    seconds = in_turn({way: partial(_all, layers) for way, layers in ways.items()}, repeats)
    return {"ms": {way: milliseconds(took) for way, took in seconds.items()}, "padding": padding}


def backends() -> dict[str, Attend]:
    """Our own ways: the native one where there is a compiler."""
    cpu = torch.device("cpu")
    found = {"blocks": get_backend("torch", cpu), "native": get_backend(AUTO, cpu)}
    return found if found["native"] is not found["blocks"] else {"blocks": found["blocks"]}


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
