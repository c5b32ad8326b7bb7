"""Head scores: normalising, the public JSON form, top heads and comparisons."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headmap.errors import InvalidScores
from headmap.head_scores import HeadScores, compare

values = st.floats(0, 1e300, allow_subnormal=False)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 8))
matrices = hnp.arrays(np.float64, shapes, elements=values).filter(lambda matrix: matrix.max() > 1e-290)


@given(matrices)
def test_scores_sum_to_one_and_keep_their_order(matrix: np.ndarray) -> None:
    scores = HeadScores(matrix, 1)
    assert math.isclose(scores.matrix.sum(), 1, rel_tol=1e-9)
    assert (scores.matrix >= 0).all()
    order = np.argsort(matrix, axis=None, kind="stable")
    assert (np.diff(scores.matrix.ravel()[order]) >= 0).all()


@given(matrices)
def test_export_and_import_keep_every_bit(matrix: np.ndarray) -> None:
    scores = HeadScores(matrix, 1)
    text = json.dumps(scores.to_sparsemm())
    copy = HeadScores.from_sparsemm(json.loads(text), 1)
    assert np.array_equal(copy.matrix, scores.matrix)
    assert copy.checksum() == scores.checksum()


def test_pages_are_averaged() -> None:
    scores = HeadScores.from_sparsemm({"0-0": [1.0, 2.0, 3.0], "0-1": 6}, 2)
    assert scores.matrix.tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize(
    ("scores", "named"),
    [
        ({"a-b": 1}, "a-b"),
        ({"0-0": 1, "0-2": 1}, "0-1"),
        ({"0-0": 1, "0-1": []}, "0-1"),
        ({"0-0": -1}, "0-0"),
        ({"0-0": math.nan}, "0-0"),
        ({"0-0": math.inf}, "0-0"),
        ({"0-0": "1"}, "0-0"),
        ({"0-0": True}, "0-0"),
        ({"0-0": 10**400}, "0-0"),
        ({"0-0": [1e308, 1e308]}, "0-0"),
        ({"0-0": {"x": 1}}, "0-0"),
        ({"0-0": 0, "0-1": 0}, "every score is 0"),
        ({"99999-99999": 1}, "more than 65536 heads"),
        ({"65535-0": 1}, "0-0"),
        ({"0-0": 1, "00-0": 1}, "00-0"),
        ({"٠-٠": 1}, "layer-head"),
        ({"0-0\n": 1}, "layer-head"),
        ({f"{layer}-0": 1 for layer in range(65_537)}, "more than 65536 heads, got 65537"),
        ({}, "at least one head"),
    ],
)
def test_bad_scores_are_refused_by_name(scores: dict, named: str) -> None:
    with pytest.raises(InvalidScores, match=named):
        HeadScores.from_sparsemm(scores, 1)


@pytest.mark.parametrize("kv_heads", [0, -1, 3, 8])
def test_kv_heads_must_divide_the_heads(kv_heads: int) -> None:
    with pytest.raises(InvalidScores, match="num_kv_heads"):
        HeadScores(np.ones((2, 4)), kv_heads)


@pytest.mark.parametrize(
    "matrix", [np.ones(3), np.ones((0, 2)), np.ones((1, 2, 3)), np.array([[1, -1.0]]), np.ones((257, 256))]
)
def test_bad_matrices_are_refused(matrix: np.ndarray) -> None:
    with pytest.raises(InvalidScores):
        HeadScores(matrix, 1)


def test_query_heads_of_a_kv_head_are_added() -> None:
    scores = HeadScores(np.array([[1.0, 2, 3, 4]]), 2)
    assert np.allclose(scores.per_kv_head(), [[0.3, 0.7]])


def test_scores_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        HeadScores(np.ones((1, 2)), 1).matrix[0, 0] = 5


def test_top_heads_come_highest_first() -> None:
    scores = HeadScores(np.array([[1.0, 9, 3], [4, 5, 6]]), 1)
    assert scores.top_heads(0.5) == [(0, 1), (1, 2), (1, 1)]
    assert scores.top_heads(0.01) == [(0, 1)]
    assert math.isclose(scores.top_share(0.5), 20 / 28)


def test_checksum_tells_maps_apart() -> None:
    one = HeadScores(np.ones((2, 2)), 1)
    assert one.checksum() == HeadScores(np.full((2, 2), 7.0), 1).checksum()
    assert one.checksum() != HeadScores(np.ones((2, 2)), 2).checksum()
    assert one.checksum() != HeadScores(np.ones((1, 4)), 1).checksum()


@given(matrices)
def test_a_map_is_like_itself(matrix: np.ndarray) -> None:
    scores = HeadScores(matrix, 1)
    result = compare(scores, scores)
    assert math.isclose(result.spearman, 1, abs_tol=1e-9)
    assert math.isclose(result.pearson, 1, abs_tol=1e-9)
    assert (result.top5pct_overlap, result.top10pct_overlap, result.total_variation) == (1, 1, 0)


def test_compare_ranks_ties_by_their_mean() -> None:
    a = HeadScores(np.array([[0.0, 0, 1, 2]]), 1)
    b = HeadScores(np.array([[0.0, 0, 2, 1]]), 1)
    # ranks 1.5 1.5 3 4 against 1.5 1.5 4 3, by hand
    assert math.isclose(compare(a, b).spearman, 3.5 / 4.5)
    assert math.isclose(compare(a, b).total_variation, 1 / 3)


def test_two_correlations_and_what_chance_would_give() -> None:
    a = HeadScores(np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 90]]), 1)
    b = HeadScores(np.array([[8.0, 7, 6, 5, 4, 3, 2, 1, 0, 90]]), 1)
    alike = compare(a, b)
    assert alike.pearson > 0.9 > 0 > alike.spearman  # the highest decides one, the nine others the other
    assert (alike.top5pct_overlap, alike.top5pct_by_chance, alike.top10pct_by_chance) == (1, 0.1, 0.1)


def test_maps_of_different_shapes_cannot_be_compared() -> None:
    with pytest.raises(InvalidScores, match="different shapes"):
        compare(HeadScores(np.ones((1, 2)), 1), HeadScores(np.ones((2, 1)), 1))
