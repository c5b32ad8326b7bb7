"""The three Triton kernels of a decode step in one layer. `triton_pages.py` describes how they work together.

A row is a (sequence, KV head) pair. Its list of pages has the pages of its part first, then the pages of its tail. The
list is cut into tiles of equal length. Tiles are numbered consecutively over all rows, row by row. The kernels do not
specialise on integers that differ between launches or on pointers to a step's tensors, so nothing is compiled while
serving.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS_AT_ONCE = tl.constexpr(1024)
SEGMENTS_AT_ONCE = tl.constexpr(64)
COLUMNS_AT_ONCE = tl.constexpr(64)

_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_STEP = ("slots", "queries", "keys", "values", "output")
_VARYING = ("layer", "sequences", "all_slots", "first_row", "tail_rows", "width")


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels: TRITON_INTERPRET was set when they were imported."""
    return not isinstance(attend, triton.JITFunction)


def factors(dtype: torch.dtype) -> tl.dtype:
    """The dtype of the factors in matrix products: `dtype` itself, except in the interpreter.

    The interpreter would multiply the bits of bfloat16 as integers, so it uses float32.
    """
    return tl.float32 if interpreted() and dtype == torch.bfloat16 else _TYPES[dtype]


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_STEP)  # type: ignore[untyped-decorator]
def begin(  # type: ignore[no-untyped-def]
    slots, keys, values, pool_keys, pool_values, write_at, part_tokens, tail_tokens, chunks, chunk_pages, starts, share,
    layer, sequences, all_slots, first_row, tail_rows, width,
    HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, WIDE_DIM: tl.constexpr,
    PROGRAMS: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """Program 0 counts tiles. Each other program writes the token of one row.

    Output: `starts` (rows + 1,) is each row's first tile. `share` (1,) is the number of tiles for each program of
    `attend`: an equal share, at least LEAST.
    """
    rows = sequences * HEADS
    if tl.program_id(0) == 0:
        before = 0
        for first in range(0, rows, ROWS_AT_ONCE):
            row = first + tl.arange(0, ROWS_AT_ONCE)
            there = row < rows
            slot = tl.load(slots + row // HEADS, mask=there, other=0)
            part = tl.load(part_tokens + (layer * all_slots + slot) * HEADS + row % HEADS, mask=there, other=0)
            tail = tl.load(tail_tokens + slot, mask=there, other=0)
            places = (tl.cdiv(part, PAGE) + tl.cdiv(tail, PAGE)) * PAGE
            tiles = tl.cdiv(places, TILE)
            ends = before + tl.cumsum(tiles, 0)
            tl.store(starts + row, ends - tiles, mask=there)
            before += tl.sum(tiles, 0)
        tl.store(starts + rows, before)
        tl.store(share, tl.maximum(tl.cdiv(before, PROGRAMS), LEAST))
    else:
        row = tl.program_id(0).to(tl.int64) - 1
        slot = tl.load(slots + row // HEADS)
        place = tl.load(write_at + slot)
        chunk = tl.load(chunks + slot * width + place // PAGE).to(tl.int64)
        page = tl.load(chunk_pages + chunk * tail_rows + first_row + row % HEADS).to(tl.int64)
        channel = tl.arange(0, WIDE_DIM)
        there = channel < DIM
        key = tl.load(keys + row * DIM + channel, mask=there)
        value = tl.load(values + row * DIM + channel, mask=there)
        offset = place % PAGE
        tl.store(pool_keys + (page * DIM + channel) * PAGE + offset, key, mask=there)
        tl.store(pool_values + (page * PAGE + offset) * DIM + channel, value, mask=there)


@triton.jit
def _row_of(tile, starts, rows):  # type: ignore[no-untyped-def]
    """Return the row of a tile. It equals the number of rows that end at or before the tile."""
    ended = 0
    for first in range(0, rows, ROWS_AT_ONCE):
        row = first + tl.arange(0, ROWS_AT_ONCE)
        end = tl.load(starts + row + 1, mask=row < rows, other=2**31 - 1)
        ended += tl.sum((end <= tile).to(tl.int32), 0)
    return ended


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_STEP)  # type: ignore[untyped-decorator]
def attend(  # type: ignore[no-untyped-def]
    slots, queries, pool_keys, pool_values, part_pages, part_starts, part_tokens, tail_tokens, chunks, chunk_pages,
    starts, share, partial, peaks, totals, scaling,
    layer, sequences, all_slots, first_row, tail_rows, width,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    WIDE_GROUP: tl.constexpr, WIDE_DIM: tl.constexpr, FACTORS: tl.constexpr,
):  # fmt: skip
    """Attend over one program's share of the tiles. The share may span rows; its tiles in one row are a segment.

    A segment leaves its unnormalised output, (GROUP, DIM) float32, its highest logit and its sum of weights at index
    program + row. The index is unique, because either the program or the row increases from one segment to the next.
    """
    program, rows = tl.program_id(0), sequences * HEADS
    tiles = tl.load(share)
    begins = program * tiles
    ends = tl.minimum(begins + tiles, tl.load(starts + rows))
    head, channel, lane = tl.arange(0, WIDE_GROUP), tl.arange(0, WIDE_DIM), tl.arange(0, TILE)
    of_query = (head[:, None] < GROUP) & (channel[None, :] < DIM)
    at_query = head[:, None] * DIM + channel[None, :]
    for row in range(_row_of(begins, starts, rows), _row_of(ends - 1, starts, rows) + 1):
        row_start = tl.load(starts + row)
        first = tl.maximum(begins, row_start) - row_start
        last = tl.minimum(ends, tl.load(starts + row + 1)) - row_start
        slot = tl.load(slots + row // HEADS)
        of_layer = (layer * all_slots + slot) * HEADS + row % HEADS
        part, tail = tl.load(part_tokens + of_layer), tl.load(tail_tokens + slot)
        pages_of_part = tl.cdiv(part, PAGE)
        pages = pages_of_part + tl.cdiv(tail, PAGE)
        part_at = tl.load(part_pages + slot).to(tl.pointer_type(tl.int32)) + tl.load(part_starts + of_layer)
        chunks_at = chunks + slot * width
        column = first_row + row % HEADS
        query_at = tl.cast(row, tl.int64) * (GROUP * DIM) + at_query
        query = tl.load(queries + query_at, mask=of_query, other=0.0).to(FACTORS)
        peak = tl.full([WIDE_GROUP], -float("inf"), tl.float32)
        total = tl.zeros([WIDE_GROUP], tl.float32)
        output = tl.zeros([WIDE_GROUP, WIDE_DIM], tl.float32)
        for tile in range(first, last):
            place = tile * TILE + lane
            index, offset = place // PAGE, place % PAGE
            in_tail = index - pages_of_part
            of_part, of_tail = index < pages_of_part, (in_tail >= 0) & (index < pages)
            chunk = tl.load(chunks_at + in_tail, mask=of_tail, other=0).to(tl.int64)
            tail_page = tl.load(chunk_pages + chunk * tail_rows + column, mask=of_tail, other=0)
            page = (tl.load(part_at + index, mask=of_part, other=0) + tail_page).to(tl.int64)
            counts = offset < tl.where(of_part, part - index * PAGE, tail - in_tail * PAGE)
            # Keys of free places are loaded too, to keep loads wide. Values are not, because 0 x NaN is NaN.
            key = tl.load(
                pool_keys + (page * (DIM * PAGE) + offset)[None, :] + channel[:, None] * PAGE,
                mask=(channel[:, None] < DIM) & (index < pages)[None, :],
                other=0.0,
            ).to(FACTORS)
            value = tl.load(
                pool_values + (page * (PAGE * DIM) + offset * DIM)[:, None] + channel[None, :],
                mask=(channel[None, :] < DIM) & counts[:, None],
                other=0.0,
            ).to(FACTORS)
            logits = tl.dot(query, key, input_precision="ieee") * scaling
            logits = tl.where(counts[None, :], logits, -float("inf"))
            highest = tl.maximum(peak, tl.max(logits, 1))
            base = tl.where(highest > -float("inf"), highest, 0.0)  # a tile may have only free places
            kept = tl.exp(peak - base)
            weights = tl.exp(logits - base[:, None])
            total = total * kept + tl.sum(weights, 1)
            rounded = weights.to(FACTORS)
            output = tl.dot(rounded, value, output * kept[:, None], input_precision="ieee")
            if tl.float32 != FACTORS:  # multiply the rounding error too, so that weights have float32 precision
                output = tl.dot((weights - rounded.to(tl.float32)).to(FACTORS), value, output)
            peak = highest
        segment = tl.cast(program + row, tl.int64)
        tl.store(partial + segment * (GROUP * DIM) + at_query, output, mask=of_query)
        tl.store(peaks + segment * GROUP + head, peak, mask=head < GROUP)
        tl.store(totals + segment * GROUP + head, total, mask=head < GROUP)


@triton.jit(do_not_specialize=_VARYING, do_not_specialize_on_alignment=_STEP)  # type: ignore[untyped-decorator]
def join(  # type: ignore[no-untyped-def]
    starts, share, partial, peaks, totals, output, GROUP: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Combine a row's segments by log-sum-exp into some columns of one query head's output; 0 for an empty row."""
    row, head = tl.program_id(0) // GROUP, tl.program_id(0) % GROUP
    tiles = tl.load(share)
    row_start, row_end = tl.load(starts + row), tl.load(starts + row + 1)
    program = row_start // tiles
    count = tl.where(row_end > row_start, (row_end - 1) // tiles - program + 1, 0)
    segments = tl.cast(program + row, tl.int64) * GROUP + head
    each = tl.arange(0, SEGMENTS_AT_ONCE)
    column = tl.program_id(1) * COLUMNS_AT_ONCE + tl.arange(0, COLUMNS_AT_ONCE)
    highest = tl.full([SEGMENTS_AT_ONCE], -float("inf"), tl.float32)
    for first in range(0, count, SEGMENTS_AT_ONCE):
        at = segments + (first + each) * GROUP
        highest = tl.maximum(highest, tl.load(peaks + at, mask=first + each < count, other=-float("inf")))
    peak = tl.max(highest, 0)
    total = tl.zeros([SEGMENTS_AT_ONCE], tl.float32)
    joined = tl.zeros([SEGMENTS_AT_ONCE, COLUMNS_AT_ONCE], tl.float32)
    for first in range(0, count, SEGMENTS_AT_ONCE):
        there = first + each < count
        at = segments + (first + each) * GROUP
        scale = tl.exp(tl.load(peaks + at, mask=there, other=-float("inf")) - peak)
        total += tl.load(totals + at, mask=there, other=0.0) * scale
        of_output = there[:, None] & (column < DIM)[None, :]
        joined += tl.load(partial + at[:, None] * DIM + column[None, :], mask=of_output, other=0.0) * scale[:, None]
    weight = tl.sum(total, 0)
    answer = tl.sum(joined, 0) / tl.where(weight > 0, weight, 1.0)
    at_output = tl.program_id(0).to(tl.int64) * DIM + column
    tl.store(output + at_output, answer, mask=column < DIM)
