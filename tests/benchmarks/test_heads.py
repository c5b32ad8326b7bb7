"""Stability with its intervals, and which heads the controls mask."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.heads import choices, stability
from headmap.head_scores import HeadScores

SCORES = HeadScores(np.arange(1.0, 41.0).reshape(4, 10) ** 3, 2)


def test_the_same_pages_twice_are_alike_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    pages = rng.random((30, 4, 10)) + 3 * rng.random((4, 10))
    same = stability(pages, pages, 2, resamples=50)
    assert same["spearman"] == same["top10pct_overlap"] == pytest.approx(1)
    assert same["spearman_low"] < 1
    other = stability(pages, rng.random((30, 4, 10)), 2, resamples=50)
    assert other["spearman"] < same["spearman_low"]
    assert other["spearman_low"] <= other["spearman"] <= other["spearman_high"]


def test_more_pages_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    heads = rng.random((4, 10))
    few, many = (
        stability(*((heads + rng.normal(0, 0.2, (pages, 4, 10))).clip(0) for _ in "ab"), 2, resamples=200)
        for pages in (4, 200)
    )
    widths = [found["spearman_high"] - found["spearman_low"] for found in (few, many)]
    assert widths[1] < widths[0] / 2


def test_controls_mask_as_many_other_heads() -> None:
    top = SCORES.top_heads(0.1)
    chosen = choices(SCORES, 0.1, draws=6)
    assert chosen["top"] == [top]
    for name in ("random", "random, same layers"):
        assert len(chosen[name]) == 6
        assert all(len(set(heads)) == len(top) and not set(heads) & set(top) for heads in chosen[name])
        assert len({tuple(heads) for heads in chosen[name]}) > 1
    layers = sorted(layer for layer, _ in top)
    assert all(sorted(layer for layer, _ in heads) == layers for heads in chosen["random, same layers"])
    assert {layer for heads in chosen["random"] for layer, _ in heads} - set(layers)


def test_a_layer_with_too_few_others_gives_all_it_has() -> None:
    chosen = choices(SCORES, 0.2, draws=2)  # eight of the last layer's ten heads
    assert [len(heads) for heads in chosen["random, same layers"]] == [2, 2]
