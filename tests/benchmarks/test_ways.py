"""The ways that are compared must compute the same thing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.efficiency import ways
from benchmarks.efficiency.equal_bytes import decode, filled_ragged, prefill
from benchmarks.shapes import TINY, build
from headmap.kvcache.transformers.generate import cache_shape


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=9), group=st.sampled_from([1, 7]))
def test_all_ways_give_the_same(lengths: list[int], group: int) -> None:
    held = [(torch.randn(length, 16), torch.randn(length, 16)) for length in lengths]
    queries = torch.randn(len(lengths), group, 16)
    expected = ways.each_row(queries, held)
    groups = ways.alike(lengths)
    for chosen in (groups, [list(range(len(lengths)))]):
        buckets = [ways.bucket(held, rows) for rows in chosen]
        torch.testing.assert_close(ways.by_bucket(queries, buckets), expected)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    assert all(lengths[rows[-1]] <= ways.CLOSE * lengths[rows[0]] for rows in groups)


def test_our_own_ways_are_measured_beside_them_and_steps_at_equal_bytes() -> None:
    model = build(TINY)
    found = ways.compare(filled_ragged(model, cache_shape(model), 2, 64), 2, TINY.num_heads, repeats=1)
    assert {"each row", "buckets", "padded", "torch"} <= set(found["ms"])
    assert found["padding"] > 1
    step = decode(model, 2, 64, repeats=1)
    assert step["kv_bytes"] > step["dense_bytes"] == 2 * 64 * 4 * 2 * TINY.head_dim * 4
    assert prefill(model, 128, 64, repeats=1)["ours_ms"] > 0
