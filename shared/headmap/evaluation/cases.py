"""The cases that an evaluation compares: cache methods, each with several selectors at several shares of the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headmap.errors import InvalidParameter, UnknownMethod
from headmap.evaluation.selectors import check_selector, selector_from_json, selector_label, selector_to_json
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.select import DEFAULT_SELECTOR, SELECTORS, SNAPKV, Select

FULL = "full"
DEFAULT_METHODS = (FULL, "sparsemm", "snapkv")
DEFAULT_RATIOS = (0.05, 0.1, 0.2, 0.4)
DEFAULT_SELECTORS = (DEFAULT_SELECTOR,)


@dataclass(frozen=True)
class Case:
    """A method, the share of the prompt that it keeps, and what selects the tokens.

    ratio: in (0, 1]; 1 for `full`. select: always SNAPKV for `full`, which selects nothing.
    """

    method: str
    ratio: float
    select: Select = SNAPKV

    @property
    def kv(self) -> KVRequest:
        return KVRequest(self.method, ratio=self.ratio, select=self.select)

    def to_json(self) -> dict[str, Any]:
        """Return the case as plain data, `select` as `select_json`. `from_json` reads it back."""
        return {"method": self.method, "ratio": self.ratio, "select": self.select_json}

    @property
    def select_json(self) -> str | dict[str, Any] | None:
        """The selector as plain data; None for `full`."""
        return None if self.method == FULL else selector_to_json(self.select)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Case:
        return cls(fields["method"], fields["ratio"], selector_from_json(fields.get("select")))

    def __str__(self) -> str:
        """`sparsemm@0.1`, and `sparsemm@0.1/last-query` where the selector is not the default one."""
        if self.method == FULL:
            return FULL
        own = "" if self.select == SELECTORS[DEFAULT_SELECTOR] else f"/{selector_label(self.select)}"
        return f"{self.method}@{self.ratio:g}{own}"


def make_cases(
    methods: Sequence[str] = DEFAULT_METHODS,
    ratios: Sequence[float] = DEFAULT_RATIOS,
    selectors: Sequence[str | Select] = DEFAULT_SELECTORS,
) -> tuple[Case, ...]:
    """Combine every method with every selector and ratio. `full` is always the first case, once, as the reference.

    `selectors`: by name, or by their numbers. Raises UnknownMethod, and InvalidParameter for a ratio outside (0, 1],
    for an unknown selector, for a repeated method, ratio or selector, and for empty lists.
    """
    for method in methods:
        if method not in METHODS:
            raise UnknownMethod(f"methods: {method!r} is none of {', '.join(METHODS)}", param="methods")
    for ratio in ratios:
        if not 0 < ratio <= 1:  # NaN fails the comparison too
            raise InvalidParameter(f"ratios: must be above 0 and at most 1, got {ratio:g}", param="ratios")
    chosen = [check_selector(select, f"selectors.{place}") for place, select in enumerate(selectors)]
    _once("methods", methods)
    _once("ratios", ratios)
    _once("selectors", [selector_label(select) for select in chosen])
    others = [method for method in methods if method != FULL]
    needed = {"methods": methods, "ratios": ratios or not others, "selectors": chosen or not others}
    for name, given in needed.items():
        if not given:
            raise InvalidParameter(f"{name}: at least one is needed, got none", param=name)
    cases = (Case(method, float(ratio), select) for method in others for select in chosen for ratio in sorted(ratios))
    return (Case(FULL, 1.0), *cases)


def find_case(cases: Iterable[Case], method: str, ratio: float | None = None, select: Select | None = None) -> Case:
    """Find the one of several cases that a caller names.

    `ratio`: needed with any method but `full`. `select`: needed where there are several at this ratio. Raises
    InvalidParameter, which names the field that fits none of the cases, or that is missing.
    """
    left = tuple(cases)
    known = ", ".join(map(str, left))
    wanted: dict[str, object] = {"method": method, "ratio": 1.0 if method == FULL and ratio is None else ratio}
    if select is not None:
        wanted["select"] = select
    for name, value in wanted.items():
        left = tuple(case for case in left if getattr(case, name) == value)
        if not left:
            told = repr(selector_label(value) if isinstance(value, Select) else value)
            raise InvalidParameter(f"{name}: {told} is none of the measured ones: {known}", param=name)
    if len(left) > 1:
        found = ", ".join(selector_label(case.select) for case in left)
        raise InvalidParameter(f"select: missing, where several were measured: {found}", param="select")
    return left[0]


def _once(name: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise InvalidParameter(f"{name}: {value!r} is named twice", param=name)
