"""Compute the curve from answers: each method's accuracy at each budget, by selector, and the smallest that holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from headmap.errors import InvalidParameter
from headmap.evaluation.answers import AnswerRow
from headmap.evaluation.cases import FULL, Case
from headmap.evaluation.intervals import (
    Z95_ONE_SIDED,
    Interval,
    mcnemar,
    mean_interval,
    paired_means_interval,
    paired_shares_interval,
    wilson,
)
from headmap.evaluation.metrics.base import Metric
from headmap.evaluation.selectors import selector_from_json, selector_label, selector_order
from headmap.kvcache.methods import METHODS
from headmap.kvcache.select import SNAPKV, Select

DEFAULT_MARGIN = 0.01


@dataclass(frozen=True)
class Point:
    """One case: a method at one ratio with one selector, over `total` questions.

    right: the mean mark, 0 to 1, and `interval` its 95 %: Wilson's for marks of 0 or 1, else the normal one.
    kept_tokens, kept_bytes: of a prompt, over all layers and KV heads, on average.

    difference_to_full: the mean mark less that of `full` on the same questions; difference_interval its 95 %, by Tango
    (1998) for marks of 0 or 1, else the normal one. p_value: McNemar's exact test for marks of 0 or 1, else None.
    loss_below: with 95 % confidence the loss against `full` is below this (one-sided, by the same formulas).

    token_ms: the median milliseconds of a decode step of a batch; None where nothing was timed.
    """

    method: str
    ratio: float
    right: float
    total: int
    interval: Interval
    kept_tokens: float
    kept_bytes: float
    difference_to_full: float
    difference_interval: Interval
    p_value: float | None
    loss_below: float
    token_ms: float | None
    select: Select = SNAPKV

    @property
    def case(self) -> Case:
        return Case(self.method, self.ratio, self.select)

    def to_json(self) -> dict[str, Any]:
        """Return the point as plain data. `from_json` reads it back."""
        return {**asdict(self), "select": self.case.select_json}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Point:
        intervals = {name: tuple(fields[name]) for name in ("interval", "difference_interval")}
        return cls(**{**fields, **intervals, "select": selector_from_json(fields.get("select"))})

    def within(self, margin: float) -> bool:
        """Whether the loss against `full` is below `margin` with 95 % confidence."""
        return self.method == FULL or self.loss_below < margin


@dataclass(frozen=True)
class Curve:
    """The points, `full` first, and the case that `recommend` returns."""

    points: tuple[Point, ...]
    recommended: Case | None
    margin: float

    def point(self, case: Case) -> Point | None:
        return next((point for point in self.points if point.case == case), None)

    def to_json(self) -> dict[str, Any]:
        """Return the curve as plain data. `from_json` reads it back."""
        return {
            "points": [point.to_json() for point in self.points],
            "recommended": None if self.recommended is None else self.recommended.to_json(),
            "margin": self.margin,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Curve:
        recommended = fields["recommended"]
        return cls(
            tuple(Point.from_json(point) for point in fields["points"]),
            None if recommended is None else Case.from_json(recommended),
            fields["margin"],
        )


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a curve needs of an answer."""

    score: float
    kept_tokens: int
    kept_bytes: int
    token_ms: float | None


def make_curve(rows: Iterable[AnswerRow], metric: Metric, margin: float = DEFAULT_MARGIN) -> Curve:
    """Compute the curve of all rows. Their order does not matter.

    Raises InvalidParameter for a margin outside 0 to 1 (0 is excluded, since no loss is ever below it), and ValueError
    if a question is answered twice in a case, not in every case, or not in `full`.
    """
    check_margin(margin)
    marks = _by_case(rows)
    if not marks:
        raise ValueError("a curve needs answers")
    if len({frozenset(own) for own in marks.values()}) > 1:
        raise ValueError("every question must be answered in every case")
    if Case(FULL, 1.0) not in marks:
        raise ValueError("a curve needs the answers of the full cache")
    full = marks[Case(FULL, 1.0)]
    order = list(METHODS)
    ordered = sorted(marks, key=lambda case: (order.index(case.method), selector_order(case.select), case.ratio))
    points = tuple(_point(case, marks[case], full, metric) for case in ordered)
    return Curve(points, recommend(points, margin), margin)


def recommend(points: Sequence[Point], margin: float) -> Case | None:
    """Find the case with the smallest ratio whose loss against `full` is below `margin` with 95 % confidence, or None.

    The ratios of a method with one selector are tested from the largest down, until one fails. In this order these
    tests together have the confidence of one test (Maurer, Hothorn, Lehmacher 1995). At equal ratios, the more accurate
    case wins.
    """
    holding: list[Point] = []
    for own in series(points).values():
        for point in sorted(own, key=lambda one: -one.ratio):
            if not point.within(margin):
                break
            holding.append(point)
    best = min(holding, key=lambda one: (one.ratio, -one.right, one.method, selector_label(one.select)), default=None)
    return None if best is None else best.case


def series(points: Iterable[Point]) -> dict[tuple[str, Select], list[Point]]:
    """Group the points of all methods but `full` by method and selector, in their order."""
    found: dict[tuple[str, Select], list[Point]] = {}
    for point in points:
        if point.method != FULL:
            found.setdefault((point.method, point.select), []).append(point)
    return found


def check_margin(margin: float) -> None:
    """Check a margin. Raises InvalidParameter."""
    if not 0 < margin <= 1:
        raise InvalidParameter(f"margin: must be above 0 and at most 1, got {margin:g}", param="margin")


def _by_case(rows: Iterable[AnswerRow]) -> dict[Case, dict[str, _Mark]]:
    """Group marks by case and question."""
    found: dict[Case, dict[str, _Mark]] = {}
    for row in rows:
        own = found.setdefault(row.case, {})
        if row.question_id in own:
            raise ValueError(f"question {row.question_id!r} is answered twice at {row.case}")
        own[row.question_id] = _Mark(row.score, row.kept_tokens, row.kept_bytes, row.token_ms)
    return found


def _point(case: Case, own: Mapping[str, _Mark], full: Mapping[str, _Mark], metric: Metric) -> Point:
    scores = [own[question].score for question in sorted(own)]
    differences = [own[question].score - full[question].score for question in sorted(own)]
    total, right = len(scores), math.fsum(scores)
    gained, lost = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    if metric.binary:
        interval = wilson(right, total)
        between = paired_shares_interval(gained, lost, total)
        worst = paired_shares_interval(gained, lost, total, Z95_ONE_SIDED)[0]
    else:
        interval = mean_interval(scores)
        between = paired_means_interval(differences)
        worst = paired_means_interval(differences, Z95_ONE_SIDED)[0]
    times = [row.token_ms for row in own.values() if row.token_ms is not None]
    return Point(
        method=case.method,
        ratio=case.ratio,
        right=right / total,
        total=total,
        interval=interval,
        kept_tokens=sum(row.kept_tokens for row in own.values()) / total,
        kept_bytes=sum(row.kept_bytes for row in own.values()) / total,
        difference_to_full=math.fsum(differences) / total,
        difference_interval=(0.0, 0.0) if case.method == FULL else between,
        p_value=mcnemar(gained, lost) if metric.binary else None,
        loss_below=0.0 if case.method == FULL else -worst,
        token_ms=median(times) if times else None,
        select=case.select,
    )
