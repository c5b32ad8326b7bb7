"""Head scores: how much each attention head looks at the picture (SparseMM, arXiv 2506.05344, section 3.1)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from headmap.errors import InvalidScores, shown

_MAX_SCORE = 1e300  # sums of a page's scores stay finite
MAX_HEADS = 65_536
"""Layers times heads of a map: several times what the largest models have."""
HEAD_PATTERN = "(0|[1-9][0-9]{0,4})-(0|[1-9][0-9]{0,4})"
"""A key of the public JSON form. Each head has one: no leading zeros, no digits of other scripts."""
_HEAD = re.compile(HEAD_PATTERN)


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of every query head, at least 0 and summing to 1 (SparseMM, section 3.1).

    `matrix`: (num_layers, num_heads) float64; it is copied, normalised, and cannot be written afterwards.
    `num_kv_heads` divides num_heads; the query heads of one KV head are neighbours.

    Raises InvalidScores for a wrong shape, more than MAX_HEADS heads, a negative or non-finite score, or scores that
    are all 0.
    """

    matrix: npt.NDArray[np.float64]
    num_kv_heads: int

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise InvalidScores(f"scores: a layers x heads matrix is needed, got shape {matrix.shape}", param="scores")
        _check_size(*matrix.shape)
        bad = np.argwhere(~np.isfinite(matrix) | (matrix < 0))
        if len(bad):
            layer, head = map(int, bad[0])
            raise InvalidScores(
                f"scores[{layer}-{head}]: must be a finite number >= 0, got {matrix[layer, head]}", param="scores"
            )
        if self.num_kv_heads < 1 or matrix.shape[1] % self.num_kv_heads:
            raise InvalidScores(
                f"num_kv_heads: {self.num_kv_heads} does not divide {matrix.shape[1]} heads", param="num_kv_heads"
            )
        peak = matrix.max()
        if peak == 0:
            raise InvalidScores("scores: every score is 0; a map needs at least one hit", param="scores")
        with np.errstate(over="ignore"):
            normalised = math.isclose(matrix.sum(), 1.0, rel_tol=1e-12)
        if not normalised:  # normalising twice would change last bits, and with them the checksum of a copied map
            matrix /= peak  # first by the peak: the sum of huge scores would overflow
            matrix /= matrix.sum()
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def num_layers(self) -> int:
        return self.matrix.shape[0]

    @property
    def num_heads(self) -> int:
        return self.matrix.shape[1]

    def per_kv_head(self) -> npt.NDArray[np.float64]:
        """(num_layers, num_kv_heads) float64, summing to 1: the scores of a KV head's query heads added."""
        return self.matrix.reshape(self.num_layers, self.num_kv_heads, -1).sum(-1)

    def of_layers(self, layers: Sequence[int]) -> HeadScores:
        """The scores of the layers with these indices, normalised to sum to 1; equal where these layers have no hit."""
        if len(layers) == self.num_layers:
            return self
        matrix = self.matrix[list(layers)]
        return HeadScores(matrix if matrix.any() else np.ones_like(matrix), self.num_kv_heads)

    def ranked(self) -> list[tuple[int, int]]:
        """Every head as (layer, head), highest score first; ties keep their order."""
        return self._highest(self.matrix.size)

    def top_heads(self, share: float) -> list[tuple[int, int]]:
        """The `share`, in (0, 1], of heads that score highest, at least one: (layer, head), highest first."""
        return self._highest(self._count(share))

    def top_share(self, share: float) -> float:
        """The part of the whole score, in 0 to 1, that `top_heads(share)` hold."""
        return float(np.sort(self.matrix, axis=None)[::-1][: self._count(share)].sum())

    def _highest(self, count: int) -> list[tuple[int, int]]:
        order = np.argsort(-self.matrix, axis=None, kind="stable")[:count]
        layers, heads = np.divmod(order, self.num_heads)
        return list(zip(layers.tolist(), heads.tolist(), strict=True))

    def _count(self, share: float) -> int:
        return max(1, round(share * self.matrix.size))

    def checksum(self) -> str:
        """SHA-256 over the KV head count and the matrix, bit for bit."""
        digest = hashlib.sha256(f"{self.num_layers}x{self.num_heads}/{self.num_kv_heads}:".encode())
        digest.update(np.ascontiguousarray(self.matrix, dtype="<f8").tobytes())
        return digest.hexdigest()

    @classmethod
    def from_sparsemm(cls, scores: Mapping[str, float | Sequence[float]], num_kv_heads: int) -> Self:
        """Read the JSON form that SparseMM publishes: `{"layer-head": score or [score per page, ...]}`.

        Pages are averaged. Raises InvalidScores naming the key for a malformed key, a missing head or a bad value, and
        for more than MAX_HEADS heads.
        """
        if len(scores) > MAX_HEADS:
            raise InvalidScores(f"scores: more than {MAX_HEADS} heads, got {len(scores)}", param="scores")
        means: dict[tuple[int, int], float] = {}
        for key, value in scores.items():
            match = _HEAD.fullmatch(key)
            if match is None:
                raise InvalidScores(f'scores: key {shown(key)} is not "layer-head"', param="scores")
            means[int(match[1]), int(match[2])] = _mean(key, value)
        if not means:
            raise InvalidScores("scores: must hold at least one head", param="scores")
        layers, heads = (1 + max(index) for index in zip(*means, strict=True))
        _check_size(layers, heads)
        if len(means) != layers * heads:
            missing = next((la, h) for la in range(layers) for h in range(heads) if (la, h) not in means)
            raise InvalidScores(
                f"scores: {layers} layers x {heads} heads need {layers * heads} entries, got {len(means)}; "
                f'"{missing[0]}-{missing[1]}" is missing',
                param="scores",
            )
        matrix = np.array([[means[layer, head] for head in range(heads)] for layer in range(layers)])
        return cls(matrix, num_kv_heads)

    def to_sparsemm(self) -> dict[str, list[float]]:
        """The JSON form that SparseMM publishes, with one score for each head: `{"layer-head": [score]}`."""
        return {
            f"{layer}-{head}": [float(self.matrix[layer, head])]
            for layer in range(self.num_layers)
            for head in range(self.num_heads)
        }


def _check_size(layers: int, heads: int) -> None:
    if layers * heads > MAX_HEADS:
        raise InvalidScores(f"scores: more than {MAX_HEADS} heads, got {layers} layers x {heads} heads", param="scores")


def _mean(key: str, value: float | Sequence[float]) -> float:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise InvalidScores(f"scores[{key}]: must hold at least one score", param="scores")
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int | float) or not 0 <= item <= _MAX_SCORE:
            raise InvalidScores(f"scores[{key}]: must be finite numbers >= 0, got {shown(item)}", param="scores")
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Comparison:
    """How alike two maps of one shape are.

    `spearman`: the rank correlation of all heads, -1 to 1. `pearson`: the correlation of their scores, which the few
    highest decide. `top5pct_overlap`, `top10pct_overlap`: the part of the top 5 % (10 %) of one map's heads that are in
    the other's, 0 to 1; `..._by_chance`: its mean if the other's were drawn at random. `total_variation`: half the sum
    of absolute differences, 0 (equal) to 1.
    """

    spearman: float
    pearson: float
    top5pct_overlap: float
    top5pct_by_chance: float
    top10pct_overlap: float
    top10pct_by_chance: float
    total_variation: float


def compare(a: HeadScores, b: HeadScores) -> Comparison:
    """Compare two maps. Raises InvalidScores when their shapes differ."""
    if a.matrix.shape != b.matrix.shape:
        raise InvalidScores(f"maps of different shapes: {a.matrix.shape} and {b.matrix.shape}")
    ours, theirs = a.matrix.ravel(), b.matrix.ravel()
    return Comparison(
        spearman=_correlation(_ranks(ours), _ranks(theirs)),
        pearson=_correlation(ours, theirs),
        top5pct_overlap=_overlap(a, b, 0.05),
        top5pct_by_chance=len(a.top_heads(0.05)) / len(ours),
        top10pct_overlap=_overlap(a, b, 0.10),
        top10pct_by_chance=len(a.top_heads(0.10)) / len(ours),
        total_variation=float(np.abs(a.matrix - b.matrix).sum() / 2),
    )


def _overlap(a: HeadScores, b: HeadScores, share: float) -> float:
    ours, theirs = set(a.top_heads(share)), set(b.top_heads(share))
    return len(ours & theirs) / len(ours)


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation. Equal values everywhere correlate with none but the same."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.asarray(np.corrcoef(a, b))[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks with ties sharing their mean rank: most heads of a map score exactly 0."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: npt.NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return shared[inverse]
