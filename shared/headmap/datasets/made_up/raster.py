"""Outlines to pixels, in whole numbers only, so that the same outlines are the same pixels on any machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UNIT = 64
"""Outline units in a pixel."""

_SUBLINES = 8
_STEP = UNIT // _SUBLINES
_FULL = UNIT * _SUBLINES

Ints = npt.NDArray[np.int64]


def coverage(segments: Ints, height: int, width: int) -> npt.NDArray[np.int32]:
    """How much of each pixel lies inside closed outlines: (height, width) int32, 0 to 255.

    `segments`: (count, 4), the directed edges `x0, y0, x1, y1` in units of 1/64 px, y downwards. A point is inside
    where an outline winds around it, in either direction. Each pixel row is cut along 8 lines, and each cut is exact to
    1/64 px; parts beyond the picture are left out.
    """
    x0, y0, x1, y1 = segments.T
    down = y1 > y0
    top, bottom = np.minimum(y0, y1), np.maximum(y0, y1)
    # Line k lies at (k + 1/2) steps; an edge cuts those with top <= y < bottom.
    first = np.clip(-((_STEP // 2 - top) // _STEP), 0, height * _SUBLINES)
    last = np.clip(-((_STEP // 2 - bottom) // _STEP), 0, height * _SUBLINES)
    cuts = last - first
    edge = np.repeat(np.arange(len(cuts)), cuts)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + first[edge]
    y = line * _STEP + _STEP // 2
    run, rise = (x1 - x0)[edge], (y1 - y0)[edge]
    x = np.clip(x0[edge] + (y - y0[edge]) * run // rise, 0, width * UNIT)
    sign = np.where(down, 1, -1)[edge]
    # Right of a cut everything is one winding deeper; the pixel it falls into gets its share.
    column, share = x // UNIT, x % UNIT
    place = line // _SUBLINES * (width + 2) + column
    size = height * (width + 2)
    change = np.bincount(place, sign * (UNIT - share), size) + np.bincount(place + 1, sign * share, size)
    depth = np.cumsum(change.astype(np.int32).reshape(height, width + 2), axis=1, dtype=np.int32)[:, :width]
    return (np.minimum(np.abs(depth), _FULL) * 255 + _FULL // 2) // _FULL


def edges(points: Ints) -> Ints:
    """The edges of a closed polygon: (count, 4) from its corners (count, 2)."""
    return np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)
