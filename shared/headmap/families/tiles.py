"""What families share that stretch a picture over a grid, each axis by its own factor."""

from __future__ import annotations

import numpy as np

from headmap.families.base import Axis, VisualTokens


def row_major(width: int, height: int, *, rows: int, cols: int) -> VisualTokens:
    """One token for each cell, row by row. `width`, `height`: the picture's, in pixels."""
    grid = np.arange(rows * cols, dtype=np.int64).reshape(rows, cols)
    return VisualTokens(grid.size, grid, Axis(cols, cols / width), Axis(rows, rows / height))


def tiled(width: int, height: int, *, rows: int, cols: int, side: int, whole_tokens: int = 0) -> VisualTokens:
    """Tiles row by row, in each side x side tokens row by row; then `whole_tokens` more for the whole picture.

    Regions are looked up in the tiles. `width`, `height`: the picture's, in pixels.
    """
    tile_row, row = np.divmod(np.arange(rows * side), side)
    tile_col, col = np.divmod(np.arange(cols * side), side)
    tile = tile_row[:, None] * cols + tile_col
    grid = (tile * side * side + row[:, None] * side + col).astype(np.int64)
    x, y = Axis(cols * side, cols * side / width), Axis(rows * side, rows * side / height)
    return VisualTokens(grid.size + whole_tokens, grid, x, y)
