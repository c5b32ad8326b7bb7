"""Decode attention as two Triton kernels over a layer's blocks, for CUDA.

The first gives every block its own program, so that a head with many tokens is split over as many programs and holds
nobody up (flash decoding, split over the keys). The second joins each row's blocks in the order of its table, which
makes the result the same from run to run; an `index_add_` on CUDA would not. Nothing depends on a value on the host, so
both can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headmap.kvcache.store import LayerStore

_JOINED_AT_ONCE = 16
_LEAST_TILE = 16  # tl.dot takes no smaller side


def attend(queries: torch.Tensor, store: LayerStore, scaling: float) -> torch.Tensor:
    """Attention of one query per query head over the tokens of its row.

    `queries`: (rows, g, head_dim), g query heads to a KV head. Returns the same shape and dtype; rows without a token
    are 0. Products and sums are kept in float32.
    """
    rows, group, dim = queries.shape
    blocks, size, _ = store.keys.shape
    queries = queries.contiguous()
    output = torch.empty_like(queries)
    if not blocks:
        return output.zero_()
    partial = torch.empty((blocks, group, dim), dtype=torch.float32, device=queries.device)
    peak = torch.empty((blocks, group), dtype=torch.float32, device=queries.device)
    weight = torch.empty_like(peak)
    wide_group = max(_LEAST_TILE, triton.next_power_of_2(group))
    wide_dim = max(_LEAST_TILE, triton.next_power_of_2(dim))
    _attend_block[(blocks,)](
        queries, store.keys, store.values, store.bias, store.owner, partial, peak, weight, scaling,
        group, dim, SIZE=size, GROUP=wide_group, DIM=wide_dim,
    )  # fmt: skip
    _join_blocks[(rows, group)](
        partial, peak, weight, store.table, store.counts, output,
        store.table.stride(0), len(store.counts), group, dim, AT_ONCE=_JOINED_AT_ONCE, DIM=wide_dim,
    )  # fmt: skip
    return output


@triton.jit  # type: ignore[untyped-decorator]
def _attend_block(  # type: ignore[no-untyped-def]
    queries, keys, values, bias, owner, partial, peak, weight, scaling,
    group, dim, SIZE: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """One block: its unnormalised output, its highest logit and its sum of weights for each query head."""
    block = tl.program_id(0).to(tl.int64)
    if tl.load(bias + block * SIZE) != 0:  # a free block: none holds its first token
        return
    row = tl.load(owner + block)
    head = tl.arange(0, GROUP)
    slot = tl.arange(0, SIZE)
    channel = tl.arange(0, DIM)
    of_query = (head[:, None] < group) & (channel[None, :] < dim)
    at_query = head[:, None] * dim + channel[None, :]
    at_key = (block * SIZE + slot[:, None]) * dim + channel[None, :]
    of_key = (slot[:, None] < SIZE) & (channel[None, :] < dim)
    query = tl.load(queries + row * group * dim + at_query, mask=of_query, other=0.0)
    key = tl.load(keys + at_key, mask=of_key, other=0.0)
    logits = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
    logits += tl.load(bias + block * SIZE + slot)[None, :]
    highest = tl.max(logits, 1)
    weights = tl.exp(logits - highest[:, None])
    value = tl.load(values + at_key, mask=of_key, other=0.0)
    output = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    tl.store(partial + block * group * dim + at_query, output, mask=of_query)
    tl.store(peak + block * group + head, highest, mask=head < group)
    tl.store(weight + block * group + head, tl.sum(weights, 1), mask=head < group)


@triton.jit  # type: ignore[untyped-decorator]
def _join_blocks(  # type: ignore[no-untyped-def]
    partial, peak, weight, table, counts, output,
    table_stride, known_rows, group, dim, AT_ONCE: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """One query head of one row: its blocks put together by their highest logits, in the order of the table."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    channel = tl.arange(0, DIM)
    of_channel = channel < dim
    count = tl.load(counts + row, mask=row < known_rows, other=0)  # a sequence may not have come to this layer yet
    highest = -float("inf")
    total = 0.0
    joined = tl.zeros([DIM], dtype=tl.float32)
    for first in range(0, count, AT_ONCE):
        place = first + tl.arange(0, AT_ONCE)
        there = place < count
        block = tl.load(table + row * table_stride + place, mask=there, other=0).to(tl.int64)
        peaks = tl.load(peak + block * group + head, mask=there, other=-float("inf"))
        higher = tl.maximum(highest, tl.max(peaks, 0))
        shares = tl.where(there, tl.exp(peaks - higher), 0.0)
        parts = tl.load(
            partial + (block * group + head)[:, None] * dim + channel[None, :],
            mask=there[:, None] & of_channel[None, :],
            other=0.0,
        )
        weights = tl.load(weight + block * group + head, mask=there, other=0.0)
        kept = tl.exp(highest - higher)
        joined = joined * kept + tl.sum(parts * shares[:, None], 0)
        total = total * kept + tl.sum(weights * shares, 0)
        highest = higher
    output_at = output + (row * group + head) * dim + channel
    tl.store(output_at, joined / tl.where(total > 0, total, 1.0), mask=of_channel)
