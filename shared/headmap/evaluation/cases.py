"""The cases that an evaluation compares: cache methods, each at several shares of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headmap.errors import InvalidParameter, UnknownMethod
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest

FULL = "full"
DEFAULT_METHODS = (FULL, "sparsemm", "snapkv")
DEFAULT_RATIOS = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, order=True)
class Case:
    """A method, and the share of the prompt that it keeps, in (0, 1]; 1 for `full`."""

    method: str
    ratio: float

    @property
    def kv(self) -> KVRequest:
        return KVRequest(self.method, ratio=self.ratio)

    def __str__(self) -> str:
        return self.method if self.method == FULL else f"{self.method}@{self.ratio:g}"


def make_cases(methods: Sequence[str] = DEFAULT_METHODS, ratios: Sequence[float] = DEFAULT_RATIOS) -> tuple[Case, ...]:
    """Combine every method with every ratio. `full` is always the first case, once, as the reference for the others.

    Raises UnknownMethod, and InvalidParameter for a ratio outside (0, 1], for a repeated method or ratio, and for
    empty lists.
    """
    for method in methods:
        if method not in METHODS:
            raise UnknownMethod(f"methods: {method!r} is none of {', '.join(METHODS)}", param="methods")
    for ratio in ratios:
        if not 0 < ratio <= 1:  # NaN fails the comparison too
            raise InvalidParameter(f"ratios: must be above 0 and at most 1, got {ratio:g}", param="ratios")
    _once("methods", methods)
    _once("ratios", ratios)
    others = [method for method in methods if method != FULL]
    if others and not ratios:
        raise InvalidParameter("ratios: at least one is needed, got none", param="ratios")
    if not methods:
        raise InvalidParameter("methods: at least one is needed, got none", param="methods")
    return (Case(FULL, 1.0), *(Case(method, float(ratio)) for method in others for ratio in sorted(ratios)))


def _once(name: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise InvalidParameter(f"{name}: {value!r} is named twice", param=name)
