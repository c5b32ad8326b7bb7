"""What follows from a map's scores alone: the scores, the order of heads, and how alike two maps are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from headmap.errors import InvalidParameter
from headmap.head_scores import compare
from headmap.page_sums import Z95
from headmap.registry import maps
from services.scoring import deps
from services.scoring.caching import ImmutableRoute
from services.scoring.deps import MapId, ReadSession
from services.scoring.schemas import ComparisonBody, HeadBody, HeadList

router = APIRouter(route_class=ImmutableRoute, tags=["maps"])

_NO_MAP: dict[int | str, dict[str, Any]] = {404: {"description": "No such map"}}
_INVALID: dict[int | str, dict[str, Any]] = {422: {"description": "Invalid request"}}


@router.get(
    "/maps/{map_id}/scores",
    summary="Scores of every head",
    response_model=list[list[float]] | dict[str, list[float]],
    responses=_NO_MAP,
)
def scores(
    map_id: MapId,
    session: ReadSession,
    form: Annotated[Literal["matrix", "sparsemm", "standard_errors"], Query(alias="format")] = "matrix",
) -> Response:
    """`matrix`: layers x heads, summing to 1. `sparsemm`: the public file's shape. `standard_errors`: of the matrix."""
    if form == "standard_errors":
        errors = maps.get_standard_errors(session, map_id)
        if errors is None:
            raise InvalidParameter("format: this map was imported without standard errors", param="format")
        return JSONResponse(errors.tolist())
    found = maps.get_scores(session, map_id)
    return JSONResponse(found.to_sparsemm() if form == "sparsemm" else found.matrix.tolist())


@router.get("/maps/{map_id}/heads", summary="Heads, highest score first, with confidence intervals", responses=_NO_MAP)
def heads(map_id: MapId, session: ReadSession, limit: Annotated[int, Query(ge=1, le=100_000)] = 50) -> HeadList:
    found = maps.get_scores(session, map_id)
    errors = maps.get_standard_errors(session, map_id)
    group = found.num_heads // found.num_kv_heads
    items = []
    for rank, (layer, head) in enumerate(found.ranked()[:limit], start=1):
        score = float(found.matrix[layer, head])
        error = None if errors is None else float(errors[layer, head])
        items.append(
            HeadBody(
                rank=rank,
                layer=layer,
                head=head,
                kv_head=head // group,
                score=score,
                standard_error=error,
                low=None if error is None else max(0.0, score - Z95 * error),
                high=None if error is None else min(1.0, score + Z95 * error),
            )
        )
    return HeadList(items=items, total=found.matrix.size)


@router.get("/maps/{map_id}/compare/{other_id}", summary="How alike two maps are", responses=_NO_MAP | _INVALID)
def comparison(map_id: MapId, other_id: deps.OtherMapId, session: ReadSession) -> ComparisonBody:
    ours, theirs = (maps.get_scores(session, name) for name in (map_id, other_id))
    return ComparisonBody.model_validate(compare(ours, theirs))
