"""Sums over pages, from which a map, its confidence intervals and its stability are computed.

One page, one shard and a whole job have the same form. Adding them in the order of the pages gives the same bits each
time, whoever scored which page.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from headmap.errors import InvalidScores
from headmap.head_scores import HeadScores, compare

Floats = npt.NDArray[np.float64]

_HEADER = struct.Struct("<6q")
"""pages, tokens_seen, tokens_matched, hits, num_layers, num_heads"""

Z95 = 1.959963984540054
"""Standard errors to each side of a score that a 95 % confidence interval reaches (normal approximation)."""


@dataclass(frozen=True)
class Stability:
    """How alike the maps of two halves of the pages are: those with an even number and those with an odd one.

    Each half has half the pages, so the map of all of them is steadier than this says.
    """

    top5pct_overlap: float
    spearman: float


@dataclass(frozen=True, eq=False)
class PageSums:
    """Sums over `pages` pages, of page scores x (num_layers, num_heads) float64.

    sums: (2, num_layers, num_heads), of x over pages with an even number and over those with an odd one.
    squares, products: (num_layers, num_heads), of x**2 and of x times the page's total over all heads.
    """

    pages: int
    tokens_seen: int
    tokens_matched: int
    hits: int
    sums: Floats
    squares: Floats
    products: Floats

    @classmethod
    def none(cls, num_layers: int, num_heads: int) -> Self:
        zeros = np.zeros((num_layers, num_heads))
        return cls(0, 0, 0, 0, np.stack([zeros, zeros]), zeros, zeros)

    @classmethod
    def of_page(cls, number: int, scores: Floats, *, tokens_seen: int, tokens_matched: int, hits: int) -> Self:
        """The sums of the job's page `number`, whose scores are (num_layers, num_heads) float64."""
        sums = np.zeros((2, *scores.shape))
        sums[number % 2] = scores
        return cls(1, tokens_seen, tokens_matched, hits, sums, scores**2, scores * scores.sum())

    def __add__(self, other: PageSums) -> PageSums:
        return PageSums(
            self.pages + other.pages,
            self.tokens_seen + other.tokens_seen,
            self.tokens_matched + other.tokens_matched,
            self.hits + other.hits,
            self.sums + other.sums,
            self.squares + other.squares,
            self.products + other.products,
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Read what `to_bytes` wrote, bit for bit. Raises InvalidScores for bytes of another length."""
        header = _HEADER.unpack_from(body) if len(body) >= _HEADER.size else (0,) * 6
        pages, seen, matched, hits, num_layers, num_heads = header
        heads = num_layers * num_heads
        if min(header) < 0 or len(body) != _HEADER.size + 8 * 4 * heads:
            raise InvalidScores(f"sums: {len(body)} bytes, which are no sums of {num_layers} x {num_heads} heads")
        values = np.frombuffer(body, "<f8", offset=_HEADER.size).reshape(4, num_layers, num_heads)
        return cls(pages, seen, matched, hits, values[:2], values[2], values[3])

    def to_bytes(self) -> bytes:
        """Six int64 (`_HEADER`), then the float64 of sums, squares and products; all little-endian."""
        header = _HEADER.pack(self.pages, self.tokens_seen, self.tokens_matched, self.hits, *self.shape)
        values = np.concatenate([self.sums, self.squares[None], self.products[None]])
        return header + values.astype("<f8").tobytes()

    @property
    def shape(self) -> tuple[int, int]:
        """(num_layers, num_heads)"""
        return self.squares.shape[0], self.squares.shape[1]

    def sound(self) -> bool:
        """Whether every sum is a finite number and none is negative."""
        return all(bool(np.isfinite(a).all() and (a >= 0).all()) for a in (self.sums, self.squares, self.products))

    def means(self) -> Floats:
        """(num_layers, num_heads): each head's mean score of a page (SparseMM equation 2), before normalising."""
        return (self.sums[0] + self.sums[1]) / self.pages

    def standard_errors(self) -> Floats:
        """Standard errors of the normalised scores over pages: (num_layers, num_heads) float64.

        A normalised score is a ratio of sums, one head's to all heads', so the spread is measured from that head's
        share of the page's total (Cochran, Sampling Techniques, 6.4): a page with twice the words changes no ratio. One
        page tells nothing about spread: 0.
        """
        means = self.means()
        if self.pages < 2 or not means.any():
            return np.zeros_like(means)
        share = means / means.sum()
        residuals = self.squares - 2 * share * self.products + share**2 * self.products.sum()
        variance = np.maximum(residuals, 0) / (self.pages - 1)
        return np.sqrt(variance / self.pages) / means.sum()

    def stability(self, num_kv_heads: int) -> Stability | None:
        """How alike the two halves are; None if a half has no hit, or no page."""
        if not (self.sums[0].any() and self.sums[1].any()):
            return None
        alike = compare(*(HeadScores(half, num_kv_heads) for half in self.sums))
        return Stability(alike.top5pct_overlap, alike.spearman)
