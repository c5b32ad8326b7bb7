"""Budgets: exact totals for any scores, and the paper's formula written a second time."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headmap.budgets import (
    ALLOCATIONS,
    Allocation,
    BudgetRule,
    allocate_budgets,
    resolve_budget,
    resolve_window,
    uniform_budgets,
    water_fill,
)
from headmap.errors import BudgetTooSmall, InvalidParameter

weights = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 8)),
    elements=st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 1e-12)),
).filter(lambda matrix: matrix.sum() > 0)


@st.composite
def rules(draw: st.DrawFn, allocation: str = "exact") -> BudgetRule:
    budget = draw(st.integers(1, 5000))
    window = draw(st.one_of(st.none(), st.integers(0, budget - 1)))
    uniform = draw(st.floats(0, 1))
    return BudgetRule(budget, resolve_window(budget, window), uniform, allocation)  # type: ignore[arg-type]


def scores_of(matrix: np.ndarray) -> np.ndarray:
    matrix = matrix / matrix.max()
    return matrix / matrix.sum()


@given(weights, rules(), st.integers(1, 6000))
@example(np.array([[1.0, 0, 0]]), BudgetRule(10, 5, 0.1), 11)
@example(np.array([[1.0, 1, 1]]), BudgetRule(10, 0, 0.0), 10)
def test_exact_lands_on_the_total_and_never_above_the_prompt(
    matrix: np.ndarray, rule: BudgetRule, prompt_tokens: int
) -> None:
    scores = scores_of(matrix)
    budgets = allocate_budgets(scores, rule, prompt_tokens)
    assert budgets.dtype == np.int64
    assert budgets.shape == scores.shape
    assert budgets.sum() == min(rule.budget, prompt_tokens) * scores.size
    assert budgets.max() <= prompt_tokens
    assert budgets.min() >= min(rule.window + rule.floor, prompt_tokens)


@given(weights, rules(), st.integers(1, 6000))
def test_a_higher_score_never_gets_less(matrix: np.ndarray, rule: BudgetRule, prompt_tokens: int) -> None:
    scores = scores_of(matrix).ravel()
    budgets = allocate_budgets(scores.reshape(1, -1), rule, prompt_tokens).ravel()
    assert (np.diff(budgets[np.argsort(scores, kind="stable")]) >= 0)[np.diff(np.sort(scores)) > 0].all()


@given(weights, rules("paper"), st.integers(1, 6000))
def test_paper_is_the_published_formula(matrix: np.ndarray, rule: BudgetRule, prompt_tokens: int) -> None:
    scores = scores_of(matrix)
    layers, heads = scores.shape
    b = rule.budget - rule.window
    floor = int(b * rule.uniform)
    rest = (b - floor) * layers * heads
    expected = [
        [round(float(scores[layer, head]) * rest + floor) + rule.window for head in range(heads)]
        for layer in range(layers)
    ]
    assert allocate_budgets(scores, rule, prompt_tokens).tolist() == expected


def test_exact_hands_a_clipped_heads_surplus_to_the_others_by_score() -> None:
    budgets = allocate_budgets(np.array([[0.8, 0.15, 0.05]]), BudgetRule(100, 0, 0.0), 120)
    assert budgets.tolist() == [[120, 120, 60]]


@given(
    hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e6)), st.integers(0, 10_000), st.integers(0, 500)
)
def test_water_fill_shares_all_there_is(values: np.ndarray, total: int, cap: int) -> None:
    shares = water_fill(values, total, cap)
    assert shares.sum() == min(total, cap * len(values))
    assert (shares >= 0).all()
    assert (shares <= cap).all()


@pytest.mark.parametrize(("budget", "window", "resolved"), [(1, None, 0), (2, None, 1), (63, None, 31), (64, None, 32)])
def test_the_window_is_at_most_half_the_budget(budget: int, window: int | None, resolved: int) -> None:
    assert resolve_window(budget, window) == resolved


def test_a_window_must_leave_a_token() -> None:
    assert resolve_window(10, 9) == 9
    with pytest.raises(BudgetTooSmall):
        resolve_window(10, 10)
    with pytest.raises(InvalidParameter):
        resolve_window(10, -1)


@pytest.mark.parametrize(("tokens", "ratio", "budget"), [(100, 0.29, 29), (100, 1, 100), (3, 0.1, 1), (10, 0.99, 9)])
def test_a_ratio_is_a_share_of_the_prompt(tokens: int, ratio: float, budget: int) -> None:
    assert resolve_budget(tokens, None, ratio) == budget


@pytest.mark.parametrize(
    ("budget", "ratio"), [(None, None), (1, 0.5), (0, None), (None, 0), (None, 1.1), (None, float("nan"))]
)
def test_bad_budgets_are_refused(budget: int | None, ratio: float | None) -> None:
    with pytest.raises((BudgetTooSmall, InvalidParameter)):
        resolve_budget(100, budget, ratio)


@pytest.mark.parametrize("arguments", [(0, 0), (4, 4), (4, -1), (4, 0, -0.1), (4, 0, 1.1), (4, 0, 0.1, "other")])
def test_bad_rules_are_refused(arguments: tuple) -> None:
    with pytest.raises((BudgetTooSmall, InvalidParameter)):
        BudgetRule(*arguments)


def test_prompts_have_tokens() -> None:
    with pytest.raises(InvalidParameter, match="prompt_tokens"):
        allocate_budgets(np.ones((1, 1)), BudgetRule(4, 0), 0)


def test_uniform_budgets_stop_at_the_prompt() -> None:
    assert uniform_budgets(2, 3, 50, 20).tolist() == [[20] * 3] * 2


def test_every_allocation_that_may_be_asked_for_is_there() -> None:
    assert set(get_args(Allocation)) == set(ALLOCATIONS)
