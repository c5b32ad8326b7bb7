"""Where every head looked on one page while the model read it: stored for a job's first pages, so that it can be shown.

A worker notes it while it profiles, when the page, the model and the argmax of each head are at hand: showing it later
needs no model, no dataset and no torch, and shows what was counted. It costs some bytes for each head and word.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

PAGES_WITH_LOOKS = 4
"""Looks are stored of so many pages of a job, its first ones."""

MAX_SIDE = 1280
_QUALITY = 90

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the page."""


@dataclass(frozen=True)
class Look:
    """Where one head looked when the model wrote one token of a word of the page.

    word: its index on the page. cell: the cell of the token with the highest attention, None if that token is text
    or has no cell in the family's geometry. hit: whether the cell belongs to the word.
    """

    token: str
    word: int
    cell: Box | None
    hit: bool


@dataclass(frozen=True, eq=False)
class PageLooks:
    """One page: its picture, its words, the answer's tokens that read them, and where every head looked.

    width, height: of the page in pixels; picture: a JPEG of it, no larger than MAX_SIDE. token_words: for each token
    the index of its word. x_edges, y_edges: the grid of visual tokens in pixels of the page, one more edge than cells.
    cells: (num_layers, num_heads, tokens) int32, row x columns + column, or -1. hits: the same shape, bool.
    """

    width: int
    height: int
    picture: bytes
    words: tuple[tuple[str, Box], ...]
    tokens: tuple[str, ...]
    token_words: tuple[int, ...]
    x_edges: tuple[float, ...]
    y_edges: tuple[float, ...]
    cells: npt.NDArray[np.int32]
    hits: npt.NDArray[np.bool_]

    def of_head(self, layer: int, head: int) -> list[Look]:
        """A look for each token. Raises IndexError for a head that the model does not have."""
        cells, hits = self.cells[layer, head], self.hits[layer, head]
        return [
            Look(token, word, self._box(int(cell)), bool(hit))
            for token, word, cell, hit in zip(self.tokens, self.token_words, cells, hits, strict=True)
        ]

    def _box(self, cell: int) -> Box | None:
        if cell < 0:
            return None
        row, col = divmod(cell, len(self.x_edges) - 1)
        return self.x_edges[col], self.y_edges[row], self.x_edges[col + 1], self.y_edges[row + 1]

    def about(self) -> str:
        """Return all fields except the picture and the arrays, as JSON."""
        names = ("width", "height", "words", "tokens", "token_words", "x_edges", "y_edges")
        return json.dumps({name: getattr(self, name) for name in names})

    def packed(self) -> bytes:
        """The arrays as a compressed npz."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, cells=self.cells.astype("<i4"), hits=self.hits)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, picture: bytes, about: str, packed: bytes) -> Self:
        """Rebuild the looks from the picture and the results of `about` and `packed`."""
        told = json.loads(about)
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            cells, hits = arrays["cells"].astype(np.int32), arrays["hits"]
        return cls(
            told["width"],
            told["height"],
            picture,
            tuple((text, tuple(box)) for text, box in told["words"]),
            tuple(told["tokens"]),
            tuple(told["token_words"]),
            tuple(told["x_edges"]),
            tuple(told["y_edges"]),
            cells,
            hits,
        )


def small_jpeg(image: Image.Image) -> bytes:
    """A page's picture as it is stored: no side above MAX_SIDE."""
    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
