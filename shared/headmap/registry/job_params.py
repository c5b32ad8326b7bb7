"""The parameters of a job: what determines its result, besides the model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headmap.errors import InvalidParameter
from headmap.evaluation.params import EvaluationParams
from headmap.kvcache.select import SNAPKV
from headmap.map_kinds import VISUAL, MapKind
from headmap.models import ModelInfo
from headmap.registry.aliases import Promote, check_promote

PROFILE, EVALUATION = "profile", "evaluation"
"""Kinds of jobs."""

AUTO_MIN_PAGES = 64
AUTO_MAX_PAGES = 1000  # as many as the paper uses
AUTO_OVERLAP = 0.9


@dataclass(frozen=True)
class JobParams:
    """The parameters that determine a job's result, besides the model. `evaluation` makes it an evaluation.

    In an evaluation, `pages` counts questions, and it has no `rule`.

    With `stable_overlap` (0 to 1) the job adds rounds of pages until the top 5 % of heads of its pages' two halves
    overlap that much, or until it has read `max_pages`. `pages`: the pages of the first round. In a job read
    from the registry, `pages` counts all rounds so far.
    """

    dataset: str
    pages: int
    rule: str | None
    seed: int
    max_new_tokens: int
    map_kind: MapKind = VISUAL
    min_pages: int | None = None
    max_pages: int | None = None
    stable_overlap: float | None = None
    dataset_checksum: str | None = None
    """Of an uploaded dataset: which pages its name stood for."""
    promote: Promote = "auto"
    """Whether the map takes the alias `default`. Equal requests with another wish share a job and its map."""
    evaluation: EvaluationParams | None = None

    @property
    def kind(self) -> str:
        return PROFILE if self.evaluation is None else EVALUATION


def job_params(
    *,
    pages: int | Literal["auto"],
    min_pages: int | None = None,
    max_pages: int | None = None,
    stable_overlap: float | None = None,
    map_kind: MapKind = VISUAL,
    promote: Promote = "auto",
    **others: Any,
) -> JobParams:
    """Make the parameters of a request. Raises InvalidParameter for fields that need `auto` or that conflict.

    `others`: the other fields of JobParams.
    """
    check_promote(map_kind, promote)
    others |= {"map_kind": map_kind, "promote": promote}
    if pages != "auto":
        auto = {"min_pages": min_pages, "max_pages": max_pages, "stable_overlap": stable_overlap}
        for name, value in auto.items():
            if value is not None:
                raise InvalidParameter(f'{name}: needs pages: "auto", got {value} with {pages} pages', param=name)
        return JobParams(pages=pages, **others)
    least = min(AUTO_MIN_PAGES, max_pages or AUTO_MIN_PAGES) if min_pages is None else min_pages
    most = max(AUTO_MAX_PAGES, least) if max_pages is None else max_pages
    if most < least:
        raise InvalidParameter(f"max_pages: must be at least min_pages ({least}), got {most}", param="max_pages")
    overlap = AUTO_OVERLAP if stable_overlap is None else stable_overlap
    return JobParams(pages=least, min_pages=least, max_pages=most, stable_overlap=overlap, **others)


def request_hash(info: ModelInfo, params: JobParams) -> str:
    """Hash a request's model, revision and parameters. Requests that get the same map have the same hash."""
    told = {name: value for name, value in asdict(params).items() if value is not None and name != "promote"}
    if params.evaluation is not None:
        told["evaluation"] = params.evaluation.to_json()
        if params.evaluation.selectors == (SNAPKV,):  # an evaluation that names no selector has the same hash
            del told["evaluation"]["selectors"]
    if params.map_kind == VISUAL:  # hashes in the registry are older than kinds
        del told["map_kind"]
    text = json.dumps([info.name, info.revision, told], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
