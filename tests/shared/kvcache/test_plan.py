"""Plans in integers: exact totals for every method, and one refusal per bad request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.errors import BudgetTooSmall, HeadmapError, InvalidParameter, MapMismatch, NoMapForModel, UnknownMethod
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS, get_method
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import check_request, plan_cache
from headmap.kvcache.shape import CacheShape

SHAPE = CacheShape(num_layers=5, num_kv_heads=3, head_dim=8, itemsize=2)
SCORES = HeadScores(np.random.default_rng(0).random((5, 6)) ** 8, 3)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None)
@given(prompt_tokens=st.integers(1, 3000), budget=st.integers(1, 4000))
def test_totals_are_exact_and_no_head_is_above_the_prompt(method: str, prompt_tokens: int, budget: int) -> None:
    plan = plan_cache(KVRequest(method, budget=budget), SHAPE, prompt_tokens, SCORES)
    expected = prompt_tokens if method == "full" else min(budget, prompt_tokens)
    assert plan.kept_tokens == expected * SHAPE.num_layers * SHAPE.num_kv_heads
    assert plan.tokens.max() <= prompt_tokens
    assert plan.tokens.min() >= min(plan.recent, prompt_tokens)
    assert plan.keeps_all == (expected == prompt_tokens)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None)
@given(prompt_tokens=st.integers(1, 3000), budget=st.integers(1, 4000))
def test_sliding_layers_hold_their_window_and_the_others_share_the_budget(
    method: str, prompt_tokens: int, budget: int
) -> None:
    shape = replace(SHAPE, window=64, sliding_layers=(0, 1, 3))
    plan = plan_cache(KVRequest(method, budget=budget), shape, prompt_tokens, SCORES)
    assert (plan.tokens[[0, 1, 3]] == min(64, prompt_tokens)).all()
    share = prompt_tokens if method == "full" else min(budget, prompt_tokens)
    assert plan.tokens[[2, 4]].sum() == share * 2 * SHAPE.num_kv_heads
    assert plan.keeps_all == (plan.kept_tokens == shape.full_tokens(prompt_tokens))


def test_a_map_without_a_hit_in_the_budgeted_layers_shares_evenly() -> None:
    shape = replace(SHAPE, window=64, sliding_layers=(0, 1, 2, 3))
    scores = HeadScores(np.array([[1.0] * 6] + [[0.0] * 6] * 4), 3)
    plan = plan_cache(KVRequest("sparsemm", budget=50), shape, 200, scores)
    assert plan.tokens[4].tolist() == [50, 50, 50]


@settings(deadline=None)
@given(prompt_tokens=st.integers(1, 5000), ratio=st.floats(0.001, 1))
def test_a_ratio_is_never_exceeded(prompt_tokens: int, ratio: float) -> None:
    plan = plan_cache(KVRequest("snapkv", ratio=ratio), SHAPE, prompt_tokens, None)
    assert plan.kept_tokens <= max(ratio * prompt_tokens + 1e-6, 1) * 15


def test_full_takes_a_prompt_shorter_than_the_window_that_was_asked_for() -> None:
    for request in (KVRequest("full", window=32), KVRequest("full", budget=33, window=32)):
        assert plan_cache(request, SHAPE, 5, None).keeps_all
    with pytest.raises(InvalidParameter, match=r"kv\.window"):
        plan_cache(KVRequest("full", window=-1), SHAPE, 5, None)


def test_pyramidkv_falls_over_the_layers_and_is_level_within_one() -> None:
    plan = plan_cache(KVRequest("pyramidkv", budget=100), SHAPE, 1000, None)
    assert (np.diff(plan.tokens.sum(1)) < 0).all()
    assert (np.ptp(plan.tokens, axis=1) <= 1).all()


@settings(deadline=None)
@given(prompt_tokens=st.integers(40, 5000), ratio=st.floats(0.02, 0.99))
def test_pyramidkv_falls_linearly_at_every_ratio(prompt_tokens: int, ratio: float) -> None:
    """Also where the first layer keeps the whole prompt: the layers after it do not starve."""
    plan = plan_cache(KVRequest("pyramidkv", ratio=ratio), SHAPE, prompt_tokens, None)
    average = plan.budget - plan.recent
    first = min(1.95 * average, prompt_tokens - plan.recent)
    expected = plan.recent + np.linspace(first, 2 * average - first, SHAPE.num_layers)
    assert (abs(plan.tokens - expected[:, None]) <= 1).all()
    assert plan.kept_tokens == plan.budget * plan.tokens.size


def test_random_is_the_same_every_time_and_differs_between_layers() -> None:
    first, again = (plan_cache(KVRequest("random", budget=90), SHAPE, 900, None) for _ in "ab")
    assert (first.tokens == again.tokens).all()
    assert len({tuple(row) for row in first.tokens.tolist()}) == SHAPE.num_layers


def test_paper_allocation_loses_what_it_gives_above_the_prompt() -> None:
    request = KVRequest("sparsemm", budget=400, allocation="paper")
    plan = plan_cache(request, SHAPE, 500, SCORES)
    assert plan.tokens.max() == 500
    assert plan.kept_tokens < 400 * 15


@pytest.mark.parametrize(
    ("request_", "error", "param"),
    [
        (KVRequest("snapkv"), InvalidParameter, "kv.budget"),
        (KVRequest("snapkv", budget=5, ratio=0.5), InvalidParameter, "kv.budget"),
        (KVRequest("full", budget=5, ratio=0.5), InvalidParameter, "kv.budget"),
        (KVRequest("snapkv", budget=0), BudgetTooSmall, "kv.budget"),
        (KVRequest("full", budget=-1), BudgetTooSmall, "kv.budget"),
        (KVRequest("snapkv", ratio=0.0), InvalidParameter, "kv.ratio"),
        (KVRequest("snapkv", ratio=1.01), InvalidParameter, "kv.ratio"),
        (KVRequest("snapkv", ratio=float("nan")), InvalidParameter, "kv.ratio"),
        (KVRequest("snapkv", budget=8, window=8), BudgetTooSmall, "kv.window"),
        (KVRequest("snapkv", budget=8, window=-1), InvalidParameter, "kv.window"),
        (KVRequest("sparsemm", budget=8, uniform=1.5), InvalidParameter, "kv.uniform"),
        (KVRequest("sparsemm", budget=8, allocation="most"), InvalidParameter, "kv.allocation"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_request_is_refused_by_name(request_: KVRequest, error: type[HeadmapError], param: str) -> None:
    with pytest.raises(error) as caught:
        plan_cache(request_, SHAPE, 100, SCORES)
    assert caught.value.param == param


def test_an_unknown_method_names_those_there_are() -> None:
    with pytest.raises(UnknownMethod, match="'snap' is not one of full, sparsemm"):
        get_method("snap")


def test_sparsemm_without_a_map_is_refused_where_it_would_evict() -> None:
    with pytest.raises(NoMapForModel):
        plan_cache(KVRequest("sparsemm", budget=10), SHAPE, 100, None)


def test_a_map_of_another_shape_is_refused() -> None:
    other = HeadScores(np.ones((4, 6)), 3)
    with pytest.raises(MapMismatch, match="4 layers x 3 KV heads do not fit a model of 5 x 3"):
        plan_cache(KVRequest("sparsemm", budget=10), SHAPE, 100, other)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (KVRequest("full", budget=5), "kv.budget"),
        (KVRequest("full", ratio=0.2), "kv.ratio"),
        (KVRequest("full", ratio=float("nan")), "kv.ratio"),
        (KVRequest("snapkv"), "kv.budget"),
    ],
)
def test_a_contradiction_is_refused_before_there_is_a_prompt(request_: KVRequest, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_request(request_)
    assert caught.value.param == param


def test_what_says_the_same_as_the_method_is_taken() -> None:
    for request in (KVRequest("full"), KVRequest("full", ratio=1.0), KVRequest("snapkv", ratio=1.0)):
        check_request(request)
