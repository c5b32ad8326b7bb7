"""Effects of a camera or scanner on a page: uneven light, soft focus, noise. Whole numbers only, as in `raster`."""

from __future__ import annotations

import hashlib

import numpy as np

from headmap.datasets.made_up.canvas import Colour, Pixels
from headmap.scoring.pages import Draw


def plain(width: int, height: int, colour: Colour) -> Pixels:
    """A background of one colour."""
    return np.full((height, width, 3), colour, dtype=np.int32)


def blend(draw: Draw, width: int, height: int, first: Colour, second: Colour) -> Pixels:
    """A background that goes from one colour to the other, along a slope."""
    across, down = draw.integer(0, 4), draw.integer(1, 4)
    place = np.arange(width)[None, :] * across * 255 // width + np.arange(height)[:, None] * down * 255 // height
    share = place[..., None] // (across + down)
    return ((np.array(first) * (255 - share) + np.array(second) * share) // 255).astype(np.int32)


def light(draw: Draw, pixels: Pixels, depth: int) -> Pixels:
    """Shade a page: a slope over all of it and some soft patches, each up to `depth` (of 255) darker."""
    height, width = pixels.shape[:2]
    slope = np.arange(width)[None, :] * draw.integer(-depth, depth) // width
    shade = 255 - depth // 2 + slope + np.arange(height)[:, None] * draw.integer(-depth, depth) // height
    for _ in range(draw.integer(1, 3)):
        y, x = draw.integer(0, height), draw.integer(0, width)
        radius = draw.integer(min(height, width) // 4, min(height, width))
        rows = np.maximum(radius - np.abs(np.arange(height) - y), 0)
        cols = np.maximum(radius - np.abs(np.arange(width) - x), 0)
        shade = shade - draw.integer(0, depth) * rows[:, None] * cols[None, :] // (radius * radius)
    return pixels * np.clip(shade, 96, 255).astype(np.int32)[..., None] // 255


def soften(pixels: Pixels, strength: int) -> Pixels:
    """Soft focus: each pixel mixed with its neighbours, with `strength` / 16 of each of the four."""
    if strength == 0:
        return pixels
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (pixels * (16 - 4 * strength) + around * strength + 8) // 16


def noise(stream: str, pixels: Pixels, strength: int) -> Pixels:
    """Grain: each pixel up to `strength` lighter or darker, by SHAKE-256 of the page's stream."""
    height, width = pixels.shape[:2]
    grain = np.frombuffer(hashlib.shake_256(stream.encode()).digest(height * width), dtype=np.uint8)
    return pixels + (grain.reshape(height, width).astype(np.int32) % (2 * strength + 1) - strength)[..., None]
