"""What evaluations have beside other jobs: parameters, the map that they read, a curve, and policies made of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from headmap.errors import (
    InvalidParameter,
    JobNotSucceeded,
    MapMismatch,
    MapNotFound,
    NoMapForModel,
    NothingRecommended,
)
from headmap.evaluation.cases import Case, find_case
from headmap.evaluation.curve import Curve
from headmap.evaluation.params import EvaluationParams
from headmap.kvcache.methods import METHODS
from headmap.kvcache.select import Select
from headmap.models import ModelInfo
from headmap.registry.job_params import EVALUATION
from headmap.registry.jobs import JobRecord, get_job
from headmap.registry.maps import find_map, resolve_map
from headmap.registry.policies import PolicyRecord, put_policy
from headmap.registry.tables import Evaluation, Map


def choose_map(session: Session, info: ModelInfo, params: EvaluationParams, name: str | None) -> EvaluationParams:
    """Return the parameters with the map that their methods read, so that an alias that moves later changes nothing.

    `name`: an id or alias of the model's map; by default the one that serves the model. Raises InvalidParameter for a
    name where no method reads a map, MapNotFound, NoMapForModel without a name, and MapMismatch for a map of another
    model or shape.
    """
    if not params.needs_map:
        if name is not None:
            raise InvalidParameter(f"map: none of the methods reads a map, got {name!r}", param="map")
        return params
    try:
        if name is None:
            record, _ = resolve_map(session, info.name, info.revision)
        else:
            record, _ = find_map(session, info.name, name, info.revision)
    except MapNotFound as error:
        if name is None:
            raise NoMapForModel(f"map: model {info.name!r} has none, which sparsemm needs", param="map") from error
        owner = session.scalar(select(Map.model).where(Map.id == name))
        if owner is not None:
            raise MapMismatch(f"map: {name!r} is a map of {owner!r}, not of {info.name!r}", param="map") from error
        raise MapNotFound(f"map: {name!r} is no map or alias of {info.name!r}", param="map") from error
    found, expected = ((one.num_layers, one.num_heads, one.num_kv_heads) for one in (record, info))
    if found != expected:
        raise MapMismatch(
            f"map: {record.id!r} has (layers, heads, KV heads) {found}, model {info.name!r} has {expected}", param="map"
        )
    return replace(params, map_id=record.id, map_version=record.version, map_revision=record.revision)


def get_params(session: Session, job_id: str) -> EvaluationParams:
    """Return the parameters of an evaluation that exists."""
    return EvaluationParams.from_attributes(session.get_one(Evaluation, job_id))


def file_curve(session: Session, job_id: str, curve: Curve) -> None:
    """Write the curve of a locked evaluation."""
    session.get_one(Evaluation, job_id).result = curve.to_json()


def curve_of(job: JobRecord) -> Curve:
    """Return the curve of an evaluation. Raises JobNotSucceeded."""
    if job.result is None:
        raise JobNotSucceeded(f"evaluation: {job.id!r} is {job.state.value}, so it has no result", param="job_id")
    return Curve.from_json(job.result)


def promote(
    session: Session,
    job_id: str,
    policy: str,
    *,
    method: str | None,
    ratio: float | None,
    select: Select | None,
    by: str | None,
    expected: frozenset[str] | None = None,
    absent: bool = False,
) -> tuple[PolicyRecord, bool]:
    """Make a policy of the recommended case, or of the one that `method`, `ratio` and `select` name.

    The policy has the id of the evaluation, and of the map where its method reads one. Also returns whether its name is
    new. Raises JobNotFound, JobNotSucceeded, NothingRecommended, InvalidParameter for a case that was not measured, and
    as `put_policy` does, which explains `by`, `expected` and `absent`.
    """
    job = get_job(session, job_id, EVALUATION)
    case = _chosen(curve_of(job), job_id, method, ratio, select)
    own = METHODS[case.method]
    asked = case.kv if own.needs_budget else replace(case.kv, ratio=None)
    read = job.params.evaluation.map_id if own.needs_scores and job.params.evaluation is not None else None
    kv: dict[str, Any] = asdict(asked) | {"select": case.select_json, "map": read}
    given = {name: value for name, value in kv.items() if value is not None}
    return put_policy(session, job.model, policy, given, by=by, evaluation_id=job.id, expected=expected, absent=absent)


def _chosen(curve: Curve, job_id: str, method: str | None, ratio: float | None, select: Select | None) -> Case:
    if method is not None:
        return find_case((point.case for point in curve.points), method, ratio, select)
    for name, value in (("ratio", ratio), ("select", select)):
        if value is not None:
            raise InvalidParameter(f"method: missing, with a {name}", param="method")
    if curve.recommended is None:
        raise NothingRecommended(
            f"evaluation: {job_id!r} recommends nothing: none of its points is sure to lose less than "
            f"{curve.margin:g}; name a method and a ratio"
        )
    return curve.recommended
