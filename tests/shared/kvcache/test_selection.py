"""Selection against a plain, dense computation; kept keys score highest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from headmap.errors import InvalidParameter
from headmap.http.kv_body import KVBody
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import check_request
from headmap.kvcache.select import DEFAULT_SELECTOR, SELECTORS, SNAPKV, Select, get_selector
from headmap.kvcache.selection import Observed, highest, keep_tokens
from headmap.kvcache.selectors.mixkv import likeness, mixed


def dense_attention(queries: torch.Tensor, keys: torch.Tensor, window: int, pool: int) -> torch.Tensor:
    """Every number one by one, in float64, from the definition."""
    num_heads, q, d = queries.shape
    num_kv_heads, n, _ = keys.shape
    group = num_heads // num_kv_heads
    means = torch.zeros(num_kv_heads, n, dtype=torch.float64)
    for head in range(num_heads):
        for row in range(q):
            visible = n - q + row + 1
            logits = keys[head // group, :visible].double() @ queries[head, row].double() / d**0.5
            means[head // group, :visible] += logits.softmax(0) / (group * q)
    pooled = torch.zeros(num_kv_heads, n - window, dtype=torch.float64)
    for column in range(n - window):
        first, last = max(0, column - pool // 2), min(n - window, column - pool // 2 + pool)
        pooled[:, column] = means[:, first:last].sum(1) / pool
    return pooled


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(("n", "window"), [(40, 8), (9, 8), (12, 0), (7, 1)])
@pytest.mark.parametrize("pool", [1, 4, 5, 15])
def test_attention_is_the_dense_computation(num_heads: int, num_kv_heads: int, n: int, window: int, pool: int) -> None:
    torch.manual_seed(n)
    queries = torch.randn(num_heads, max(window, 1), 16)
    keys = torch.randn(num_kv_heads, n, 16)
    ours = Observed(queries, keys, 16**-0.5, window, Select(pool=pool)).attention
    torch.testing.assert_close(ours.double(), dense_attention(queries, keys, window, pool), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("most", [1, 2 * 40 * 16, 3 * 40 * 16])
@pytest.mark.parametrize("name", list(SELECTORS))
def test_some_heads_at_a_time_are_all_heads_at_once(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    select = SELECTORS[name]
    queries, keys = torch.randn(10, select.window or 1, 16), torch.randn(5, 40, 16)
    whole = Observed(queries, keys, 0.25, 8, select)
    monkeypatch.setattr("headmap.kvcache.selection.MAX_FLOATS", most)
    pieces = Observed(queries, keys, 0.25, 8, select)
    torch.testing.assert_close(pieces.attention, whole.attention)
    torch.testing.assert_close(pieces.scores, whole.scores)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_each_head_keeps_its_budget_its_window_and_the_highest_scores(data: st.DataObject) -> None:
    num_kv_heads, group = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    n = data.draw(st.integers(3, 60))
    window = data.draw(st.integers(0, min(8, n - 1)))
    budgets = torch.tensor([data.draw(st.integers(window, n)) for _ in range(num_kv_heads)])
    torch.manual_seed(data.draw(st.integers(0, 10_000)))
    queries, keys = torch.randn(num_kv_heads * group, max(window, 1), 8), torch.randn(num_kv_heads, n, 8)
    seen = Observed(queries, keys, 8**-0.5, window, data.draw(st.sampled_from(list(SELECTORS.values()))))
    keep = keep_tokens(get_method("snapkv"), seen, budgets)
    assert keep.sum(1).tolist() == budgets.tolist()
    assert keep[:, n - window :].all()
    scores = seen.scores
    for head in range(num_kv_heads):
        kept, dropped = scores[head][keep[head, : n - window]], scores[head][~keep[head, : n - window]]
        if len(kept) and len(dropped):
            assert kept.min() >= dropped.max()


@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=3), st.data())
def test_the_highest_are_the_first_of_a_stable_sort(rows: list[list[int]], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, 7)) for _ in rows]
    for found, row, count in zip(highest(torch.tensor(rows).float(), torch.tensor(counts)), rows, counts, strict=True):
        assert found.nonzero()[:, 0].tolist() == sorted(sorted(range(7), key=lambda place: -row[place])[:count])


def test_adakv_shares_a_layers_tokens_by_attention_and_keeps_the_sum() -> None:
    attention = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3, 2], [0.1] * 8])
    shares = get_method("adakv").head_budgets(attention, torch.tensor([4, 4]))
    assert shares.tolist() == [7, 1]  # 0.8 x 8 wins + 0.2 x 4, and 0.2 x 4, to the token


def test_ties_go_to_the_earlier_token() -> None:
    seen = Observed(torch.zeros(1, 1, 4), torch.zeros(1, 20, 4), 1.0, recent=1)
    keep = keep_tokens(get_method("snapkv"), seen, torch.tensor([6]))
    # All tokens weigh the same, but pooling sees padding at both ends, so the inner ones stand higher.
    assert keep[0].nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 19]


def test_mixkv_prefers_tokens_that_differ_where_keys_are_alike() -> None:
    """Of equally important tokens; where a head's keys point everywhere, importance alone decides."""
    alike = torch.tensor([[1.0, 0.01], [1.0, 0.0], [0.6, 0.8], [1.0, -0.01]])
    apart = torch.eye(4)[:, :2] - torch.eye(4)[:, 2:]
    importance = torch.tensor([[0.3, 0.3, 0.25, 0.2]])
    assert mixed(importance, alike[None], 1.0).argmax() == 2
    assert mixed(importance, apart[None], 1.0).argsort(descending=True, stable=True).tolist() == [[0, 1, 2, 3]]


def test_the_likeness_of_keys_is_the_mean_cosine_of_all_pairs() -> None:
    torch.manual_seed(3)
    keys = normalize(torch.randn(2, 9, 4) + 0.7, dim=-1)
    cosines = keys @ keys.transpose(1, 2)
    expected = (cosines.sum((1, 2)) - 9) / (9 * 8)
    torch.testing.assert_close(likeness(keys.mean(1), 9), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixkv_is_its_definition(dtype: torch.dtype) -> None:
    """Token by token, in float64; a key of zeros has no direction."""
    torch.manual_seed(4)
    keys, importance = (torch.randn(2, 30, 8) + 0.4).to(dtype), torch.rand(2, 30)
    keys[0, 5] = 0
    directions = normalize(keys.double(), dim=-1)
    diversity = -torch.einsum("htd,hsd->hts", directions, directions).mean(2)
    diversity -= diversity.amin(1, keepdim=True)
    diversity /= diversity.amax(1, keepdim=True)
    diversity *= importance.mean(1, keepdim=True) / diversity.mean(1, keepdim=True)
    weight = 0.5 * likeness(directions.mean(1), 30)[:, None]
    torch.testing.assert_close(mixed(importance, keys, 0.5).double(), (1 - weight) * importance + weight * diversity)


@pytest.mark.parametrize(
    ("select", "param"),
    [
        (Select("first"), "kv.select.observe"),  # type: ignore[arg-type]
        (Select(window=0), "kv.select.window"),
        (Select("last", window=4), "kv.select.window"),
        (Select(pool=16), "kv.select.pool"),
        (Select(pool=0), "kv.select.pool"),
        (Select(mix=1.1), "kv.select.mix"),
        (Select(mix=float("nan")), "kv.select.mix"),
    ],
)
def test_a_wrong_selector_is_refused_by_name(select: Select, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_request(KVRequest("snapkv", ratio=0.5, select=select))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("request_", "recent", "window"),
    [
        (KVRequest("snapkv", select=SNAPKV), 32, 32),
        (KVRequest("snapkv"), 8, 32),
        (KVRequest("snapkv", select=Select(window=8)), 8, 32),
        (KVRequest("snapkv", select=Select(window=12)), 12, 32),
        (KVRequest("snapkv", select=Select("last")), 8, 32),
        (KVRequest("snapkv", window=6, select=Select(window=12)), 6, 6),
        (KVRequest("snapkv", keep_recent=2, select=Select(window=12)), 2, 32),
    ],
)
def test_a_selector_keeps_as_many_recent_tokens_as_observe(request_: KVRequest, recent: int, window: int) -> None:
    assert request_.recent(100) == (recent, window)
    assert request_.recent(9)[0] == min(
        recent, 4 if request_.keep_recent is None and request_.window is None else recent
    )


def test_a_request_without_a_selector_has_the_one_that_every_route_takes() -> None:
    """SnapKV's for a request with its window."""
    assert KVRequest("sparsemm").selector == KVBody(method="sparsemm").asked().selector == SELECTORS[DEFAULT_SELECTOR]
    assert KVRequest("sparsemm", window=16).selector == SNAPKV
    assert KVRequest("sparsemm", window=16, select=Select("last")).selector == Select("last")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"kv\.select: 'best' is not one of snapkv"):
        get_selector("best")
