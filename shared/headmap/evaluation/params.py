"""What an evaluation compares and how it marks: the part of a request that its model and dataset do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from headmap.evaluation.cases import DEFAULT_SELECTORS, FULL, Case, make_cases
from headmap.evaluation.curve import check_margin
from headmap.evaluation.selectors import selector_from_json, selector_order, selector_to_json
from headmap.kvcache.methods import METHODS
from headmap.kvcache.select import SNAPKV, Select


@dataclass(frozen=True)
class EvaluationParams:
    """Equal evaluations have equal parameters: `make_params` sorts methods, ratios and selectors.

    metric: its name. margin: the loss against the full cache that is still no loss. questions: as the request gives it;
    None for all of a dataset that is smaller than the default. map_id, map_version, map_revision: of the map that
    methods with scores read, None if none does.
    """

    methods: tuple[str, ...]
    ratios: tuple[float, ...]
    metric: str
    margin: float
    questions: int | None = None
    map_id: str | None = None
    map_version: int | None = None
    map_revision: str | None = None
    selectors: tuple[Select, ...] = (SNAPKV,)

    @property
    def cases(self) -> tuple[Case, ...]:
        return make_cases(self.methods, self.ratios, self.selectors)

    @property
    def needs_map(self) -> bool:
        return any(METHODS[method].needs_scores for method in self.methods)

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as plain data. `from_json` reads them back."""
        return {**asdict(self), "selectors": [selector_to_json(select) for select in self.selectors]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EvaluationParams:
        lists = {
            "methods": tuple(values["methods"]),
            "ratios": tuple(values["ratios"]),
            "selectors": tuple(selector_from_json(select) for select in values["selectors"]),
        }
        return cls(**{**values, **lists})

    @classmethod
    def from_attributes(cls, source: object) -> EvaluationParams:
        """Read the parameters from attributes of the same names."""
        return cls.from_json({field.name: getattr(source, field.name) for field in fields(cls)})


def make_params(
    methods: Sequence[str],
    ratios: Sequence[float],
    selectors: Sequence[str | Select] = DEFAULT_SELECTORS,
    *,
    metric: str,
    margin: float,
    questions: int | None,
) -> EvaluationParams:
    """Make the parameters of a request, without a map. Raises as `make_cases` and `check_margin` do."""
    cases = make_cases(methods, ratios, selectors)
    check_margin(margin)
    chosen = {case.method for case in cases}
    others = sorted({case.ratio for case in cases if case.method != FULL})
    return EvaluationParams(
        tuple(method for method in METHODS if method in chosen),
        tuple(others),
        metric,
        float(margin),
        questions,
        selectors=tuple(sorted({case.select for case in cases if case.method != FULL} or {SNAPKV}, key=selector_order)),
    )
