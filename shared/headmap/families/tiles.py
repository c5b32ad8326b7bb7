"""Shared by families: stretch a picture over a grid by one factor per axis; stack pixels of different sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from headmap.families.base import Axis, VisualTokens


def row_major(width: int, height: int, *, rows: int, cols: int) -> VisualTokens:
    """One token for each cell, row by row. `width`, `height`: the picture's size in pixels."""
    grid = np.arange(rows * cols, dtype=np.int64).reshape(rows, cols)
    return VisualTokens(grid.size, grid, Axis(cols, cols / width), Axis(rows, rows / height))


def tiled(width: int, height: int, *, rows: int, cols: int, side: int, whole_tokens: int = 0) -> VisualTokens:
    """Tiles in row order, each with side x side tokens in row order, then `whole_tokens` for the whole picture.

    Regions refer to the tiles. `width`, `height`: the picture's size in pixels.
    """
    tile_row, row = np.divmod(np.arange(rows * side), side)
    tile_col, col = np.divmod(np.arange(cols * side), side)
    tile = tile_row[:, None] * cols + tile_col
    grid = (tile * side * side + row[:, None] * side + col).astype(np.int64)
    x, y = Axis(cols * side, cols * side / width), Axis(rows * side, rows * side / height)
    return VisualTokens(grid.size + whole_tokens, grid, x, y)


def stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack (p, ...) and (q, ...) to (p + q, ...). Zeros at the ends pad other dimensions to the largest size."""
    sizes = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros((sum(map(len, parts)), *sizes))
    for rows, part in zip(whole.split([len(part) for part in parts]), parts, strict=True):
        rows[tuple(slice(size) for size in part.shape)] = part
    return whole
