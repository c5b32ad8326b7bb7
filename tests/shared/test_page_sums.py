"""What pages add up to: however they are split into shards, and what it says of the map."""

from __future__ import annotations

import numpy as np
import pytest

from headmap.errors import InvalidScores
from headmap.head_scores import HeadScores, compare
from headmap.page_sums import PageSums, Stability

SHAPE = (3, 4)


def pages(count: int, seed: int = 0) -> np.ndarray:
    """(count, 3, 4): scores of pages of very different length, some heads never looking."""
    rng = np.random.default_rng(seed)
    scores = rng.random((count, *SHAPE)) ** 3 * rng.integers(1, 20, (count, 1, 1))
    scores[:, 0, :2] = 0
    return scores


def add_up(scores: np.ndarray, first: int = 0) -> PageSums:
    total = PageSums.none(*SHAPE)
    for number, page in enumerate(scores, start=first):
        total += PageSums.of_page(number, page, tokens_seen=5, tokens_matched=4, hits=3)
    return total


def test_means_and_counts_are_those_of_the_pages() -> None:
    scores = pages(9)
    total = add_up(scores)
    np.testing.assert_allclose(total.means(), scores.mean(0))
    assert (total.pages, total.tokens_seen, total.tokens_matched, total.hits) == (9, 45, 36, 27)
    assert total.shape == SHAPE


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_shards_of_any_size_add_up_to_the_whole(size: int) -> None:
    scores = pages(17)
    whole, total = add_up(scores), PageSums.none(*SHAPE)
    for first in range(0, 17, size):
        total += add_up(scores[first : first + size], first)
    assert (total.pages, total.hits) == (whole.pages, whole.hits)
    for name in ("sums", "squares", "products"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-12)


def test_standard_errors_are_those_that_a_bootstrap_over_pages_finds() -> None:
    scores = pages(300)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        resampled = scores[rng.integers(0, 300, 300)].sum(0)
        drawn.append(resampled / resampled.sum())
    np.testing.assert_allclose(add_up(scores).standard_errors(), np.std(drawn, axis=0), rtol=0.1, atol=1e-12)


def test_pages_that_differ_only_in_length_leave_no_doubt() -> None:
    page = pages(1)[0]
    total = add_up(np.stack([page * length for length in (1, 2, 7, 3)]))
    np.testing.assert_allclose(total.standard_errors(), 0, atol=1e-7)


def test_one_page_tells_nothing_about_spread() -> None:
    assert not add_up(pages(1)).standard_errors().any()


def test_stability_compares_even_pages_with_odd_ones() -> None:
    scores = pages(11)
    alike = compare(HeadScores(scores[::2].sum(0), 2), HeadScores(scores[1::2].sum(0), 2))
    assert add_up(scores).stability(2) == Stability(alike.top5pct_overlap, alike.spearman)
    # a page's number counts, not its place in the shard
    shifted = add_up(scores[:4]) + add_up(scores[4:], first=4)
    assert shifted.stability(2) == add_up(scores).stability(2)


def test_halves_without_a_hit_have_no_stability() -> None:
    scores = pages(4)
    scores[1::2] = 0
    assert add_up(scores).stability(2) is None
    assert PageSums.none(*SHAPE).stability(2) is None


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_unsound_sums_are_told(value: float) -> None:
    scores = pages(2)
    assert add_up(scores).sound()
    scores[1, 2, 3] = value
    with np.errstate(invalid="ignore"):
        assert not add_up(scores).sound()


def test_bytes_read_back_bit_for_bit() -> None:
    total = add_up(pages(5))
    total.sums[0, 0, :3] = [np.nan, np.inf, -0.0]
    again = PageSums.from_bytes(total.to_bytes())
    assert (again.pages, again.tokens_seen, again.tokens_matched, again.hits) == (5, 25, 20, 15)
    for name in ("sums", "squares", "products"):
        assert getattr(again, name).tobytes() == getattr(total, name).tobytes()
    assert again.shape == SHAPE


@pytest.mark.parametrize("length", [0, 47, 48, 431, 433])
def test_bytes_of_another_length_are_refused(length: int) -> None:
    body = add_up(pages(1)).to_bytes()
    assert len(body) == 432
    with pytest.raises(InvalidScores, match=f"sums: {length} bytes"):
        PageSums.from_bytes((body + b"0")[:length])
