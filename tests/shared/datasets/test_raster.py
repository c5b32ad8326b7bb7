"""Outlines to pixels: exact where it can be, close to the true area elsewhere, and blind to where things stand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headmap.datasets.made_up.raster import UNIT, coverage, edges

corner = st.tuples(st.integers(0, 40 * UNIT), st.integers(0, 40 * UNIT))


def polygon(*corners: tuple[int, int]) -> np.ndarray:
    return edges(np.array(corners, dtype=np.int64))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def test_whole_pixels_are_full_and_others_empty() -> None:
    expected = np.zeros((6, 8), dtype=int)
    expected[1:4, 2:5] = 255
    assert (coverage(rectangle(2 * UNIT, UNIT, 5 * UNIT, 4 * UNIT), 6, 8) == expected).all()


def test_half_a_pixel_is_half_covered() -> None:
    assert coverage(rectangle(0, 0, UNIT // 2, UNIT), 1, 2).tolist() == [[128, 0]]
    assert coverage(rectangle(0, 0, UNIT, UNIT // 2), 1, 2).tolist() == [[128, 0]]


@settings(deadline=None)
@given(corner, corner, corner)
def test_a_triangle_covers_its_area(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> None:
    covered = coverage(polygon(a, b, c), 40, 40).sum() / 255
    area = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2 / UNIT**2
    outline = sum(max(abs(p[0] - q[0]), abs(p[1] - q[1])) for p, q in ((a, b), (b, c), (c, a))) / UNIT
    assert abs(covered - area) <= 0.1 * outline + 1


@settings(deadline=None)
@given(corner, corner, corner)
def test_both_directions_and_every_place_are_the_same(
    a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]
) -> None:
    drawn = coverage(polygon(a, b, c), 40, 40)
    assert (coverage(polygon(c, b, a), 40, 40) == drawn).all()
    moved = coverage(polygon(a, b, c) + np.array([3, 2, 3, 2]) * UNIT, 42, 43)
    assert (moved[2:, 3:] == drawn).all()


def test_what_overlaps_is_no_darker_and_a_hole_is_a_hole() -> None:
    twice = np.concatenate([rectangle(0, 0, 4 * UNIT, UNIT), rectangle(2 * UNIT, 0, 6 * UNIT, UNIT)])
    assert coverage(twice, 1, 7).tolist() == [[255] * 6 + [0]]
    hole = rectangle(UNIT, 0, 2 * UNIT, UNIT)[:, [2, 3, 0, 1]]
    assert coverage(np.concatenate([rectangle(0, 0, 3 * UNIT, UNIT), hole]), 1, 3).tolist() == [[255, 0, 255]]


def test_what_lies_beyond_the_picture_is_left_out() -> None:
    assert (coverage(rectangle(-9 * UNIT, -9 * UNIT, 99 * UNIT, 99 * UNIT), 5, 5) == 255).all()
    assert (coverage(rectangle(-9 * UNIT, 0, -2 * UNIT, 5 * UNIT), 5, 5) == 0).all()
    assert (coverage(rectangle(7 * UNIT, 0, 9 * UNIT, 5 * UNIT), 5, 5) == 0).all()
