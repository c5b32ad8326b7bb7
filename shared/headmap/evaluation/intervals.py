"""Confidence intervals and the paired test of a curve: few formulas, no dependency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Z95 = 1.959963984540054
"""Two-sided 95 %: standard deviations of a normal variable."""

Z95_ONE_SIDED = 1.6448536269514722

Interval = tuple[float, float]


def wilson(right: float, total: int, z: float = Z95) -> Interval:
    """The score interval of a share (Wilson 1927); 95 % by default."""
    if total == 0:
        return 0.0, 1.0
    p = right / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(scores: Sequence[float], z: float = Z95) -> Interval:
    """The normal interval of the mean of marks from 0 to 1; the whole range for fewer than two of them."""
    if len(scores) < 2:
        return 0.0, 1.0
    mean, error = _mean_and_error(scores)
    return max(0.0, mean - z * error), min(1.0, mean + z * error)


def paired_shares_interval(gained: int, lost: int, total: int, z: float = Z95) -> Interval:
    """The score interval of (gained - lost) / total, a difference of paired shares (Tango 1998, equation 10).

    Of `total` pairs, `gained` are right only with the second case and `lost` only with the first. If both are 0, the
    interval is still as wide as Wilson's interval of 0 in `total`.
    """
    if total == 0:
        return -1.0, 1.0

    def statistic(difference: float) -> float:
        """Return the pairs' distance above `difference` in standard errors. It falls as `difference` grows."""
        linear = (2 * total - gained + lost) * difference - gained - lost
        root = math.sqrt(max(0.0, linear * linear + 8 * total * lost * difference * (1 - difference)))
        share_lost = (root - linear) / (4 * total)
        variance = total * (2 * share_lost + difference * (1 - difference))
        excess = gained - lost - total * difference
        return math.copysign(math.inf, excess) if variance <= 0 else excess / math.sqrt(variance)

    seen = (gained - lost) / total
    return (
        _crossing(lambda difference: statistic(difference) <= z, -1.0, seen),
        _crossing(lambda difference: statistic(difference) <= -z, seen, 1.0),
    )


def paired_means_interval(differences: Sequence[float], z: float = Z95) -> Interval:
    """The normal interval of the mean difference of paired marks, each difference from -1 to 1.

    Half a pair of difference 1 and half a pair of -1 are added, and their number counts as two more: without that,
    a few pairs without any difference would prove that there is none (as Agresti and Min 2005 do for shares).
    """
    total = len(differences) + 2
    mean = math.fsum(differences) / total
    variance = (math.fsum(one * one for one in differences) + 1) / total - mean * mean
    half = z * math.sqrt(max(0.0, variance) / total)
    return max(-1.0, mean - half), min(1.0, mean + half)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value of the split of `gained` + `lost` pairs (McNemar 1947); 1 without pairs."""
    pairs, fewer = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(pairs, k) for k in range(fewer + 1)) / 2**pairs)


def _crossing(passed: Callable[[float], bool], low: float, high: float) -> float:
    """Find the point in `low` to `high` from which a condition holds, to 1e-12; `high` if it never holds."""
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if passed(middle) else (middle, high)
    return high


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; at least two values."""
    n = len(values)
    mean = math.fsum(values) / n
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
