"""Maps over HTTP: import, list, read, compare, budgets, aliases and the map to serve a model with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from headmap.budgets import DEFAULT_UNIFORM, Allocation, BudgetRule, allocate_budgets, resolve_window
from headmap.errors import BudgetTooSmall, InvalidParameter, MapMismatch, ModelNotFound, UnsupportedModel
from headmap.head_scores import HeadScores, compare
from headmap.models import ModelInfo, find_model
from headmap.page_sums import Z95
from headmap.registry import maps
from headmap.registry.maps import MapRecord
from headmap.settings import Settings
from services.scoring import deps
from services.scoring.deps import MapId, ScoringState, State
from services.scoring.kv_config import bytes_per_token_per_head, sliding_layers
from services.scoring.map_bodies import MapRoute
from services.scoring.schemas import (
    Budgets,
    ComparisonBody,
    HeadBody,
    HeadList,
    MapImport,
    MapList,
    MapNotes,
    ResolvedMap,
)

router = APIRouter(route_class=MapRoute, tags=["maps"])

_NO_MAP: dict[int | str, dict[str, Any]] = {404: {"description": "No such map"}}
_INVALID: dict[int | str, dict[str, Any]] = {422: {"description": "Invalid request"}}


@router.post(
    "/maps",
    status_code=201,
    summary="Import a map",
    responses={
        201: {"headers": {"Location": {"description": "/maps/{id}", "schema": {"type": "string"}}}},
        409: {"description": "The model is here, and of another shape"},
    },
)
def import_map(body: MapImport, request: Request, state: State, caller: deps.Caller, response: Response) -> MapRecord:
    deps.check_promotion(request, body.promote)
    scores = HeadScores.from_sparsemm(body.scores, body.num_kv_heads)
    info = _model_here(body.model, state.settings)
    if info is not None:
        _check_shape(scores, info)
    provenance = maps.imported(body.model, body.revision, info.architecture if info else None)
    with state.database.write() as session:
        map_id = maps.add_map(session, provenance, scores, promote=body.promote, by=caller)
        record = maps.get_map(session, map_id)
    response.headers["Location"] = f"/maps/{map_id}"
    return record


@router.get("/maps", summary="Maps, newest first")
def listing(
    state: State, model: deps.ModelFilter = None, limit: deps.Limit = 50, cursor: deps.Cursor = None
) -> MapList:
    with state.database.read() as session:
        page = maps.list_maps(session, model=model, limit=limit, cursor=cursor)
    return MapList(items=page.items, next_cursor=page.next_cursor)


@router.get("/maps/resolve", summary="The map to serve a model with", responses=_NO_MAP)
def resolve(
    state: State, model: deps.ModelQuery, revision: deps.RevisionQuery = None, alias: deps.AliasQuery = None
) -> ResolvedMap:
    with state.database.read() as session:
        record, match = maps.resolve_map(session, model, revision, alias)
    return ResolvedMap(**vars(record), match=match)


@router.get("/maps/{map_id}", summary="A map with its provenance", responses=_NO_MAP)
def show(map_id: MapId, state: State) -> MapRecord:
    with state.database.read() as session:
        return maps.get_map(session, map_id)


@router.get(
    "/maps/{map_id}/scores",
    summary="Scores of every head",
    response_model=list[list[float]] | dict[str, list[float]],
    responses=_NO_MAP,
)
def scores(
    map_id: MapId,
    state: State,
    form: Annotated[Literal["matrix", "sparsemm", "standard_errors"], Query(alias="format")] = "matrix",
) -> Response:
    """`matrix`: layers x heads, summing to 1. `sparsemm`: the public file's shape. `standard_errors`: of the matrix."""
    with state.database.read() as session:
        if form == "standard_errors":
            errors = maps.get_standard_errors(session, map_id)
            if errors is None:
                raise InvalidParameter("format: an imported map has no standard errors", param="format")
            return JSONResponse(errors.tolist())
        found = maps.get_scores(session, map_id)
    return JSONResponse(found.to_sparsemm() if form == "sparsemm" else found.matrix.tolist())


@router.get("/maps/{map_id}/heads", summary="Heads, highest score first, with confidence intervals", responses=_NO_MAP)
def heads(map_id: MapId, state: State, limit: Annotated[int, Query(ge=1, le=100_000)] = 50) -> HeadList:
    with state.database.read() as session:
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


@router.get(
    "/maps/{map_id}/budgets",
    summary="Tokens that each KV head keeps",
    response_model_exclude_none=True,
    responses=_NO_MAP | _INVALID,
)
def budgets(
    map_id: MapId,
    state: State,
    budget: deps.Budget = 256,
    prompt_tokens: deps.PromptTokens = 2880,
    allocation: Allocation = "exact",
    window: deps.Window = None,
    uniform: deps.Uniform = DEFAULT_UNIFORM,
) -> Budgets:
    """Sliding layers always hold their window; the budget is for the heads of the other layers."""
    if window is not None and window >= budget:
        raise BudgetTooSmall(f"window: must be below the budget of {budget} tokens, got {window}", param="window")
    record, found = _load(state, map_id)
    rule = BudgetRule(budget, resolve_window(budget, window), uniform, allocation)
    info = _model_here(record.model, state.settings)
    sliding_window, sliding = sliding_layers(info) if info and info.num_layers == found.num_layers else (None, ())
    most = np.full((found.num_layers, found.num_kv_heads), prompt_tokens)
    most[list(sliding)] = min(prompt_tokens, sliding_window or prompt_tokens)
    values, others = most.copy(), [layer for layer in range(found.num_layers) if layer not in sliding]
    if others:
        values[others] = allocate_budgets(found.of_layers(others).per_kv_head(), rule, prompt_tokens)
    return Budgets(
        budgets=values.tolist(),
        total=int(values.sum()),
        kept_tokens=int(np.minimum(values, most).sum()),
        full_tokens=int(most.sum()),
        budget=budget,
        prompt_tokens=prompt_tokens,
        allocation=allocation,
        window=rule.window,
        uniform=uniform,
        sliding_window=sliding_window,
        sliding_layers=list(sliding),
        bytes_per_token_per_head=bytes_per_token_per_head(info, state.settings) if info else None,
    )


@router.get("/maps/{map_id}/compare/{other_id}", summary="How alike two maps are", responses=_NO_MAP | _INVALID)
def comparison(map_id: MapId, other_id: deps.OtherMapId, state: State) -> ComparisonBody:
    with state.database.read() as session:
        ours, theirs = (maps.get_scores(session, name) for name in (map_id, other_id))
    return ComparisonBody.model_validate(compare(ours, theirs))


@router.patch("/maps/{map_id}", summary="Write tags and notes on a map", responses=_NO_MAP)
def annotate(map_id: MapId, body: MapNotes, state: State) -> MapRecord:
    with state.database.write() as session:
        return maps.annotate_map(session, map_id, body.model_dump(exclude_unset=True))


@router.delete(
    "/maps/{map_id}",
    status_code=204,
    summary="Delete a map that no alias points at and no policy names",
    responses=_NO_MAP | {409: {"description": "An alias points at it, or a policy names it"}},
)
def delete(map_id: MapId, state: State) -> None:
    with state.database.write() as session:
        maps.delete_map(session, map_id)


def _load(state: ScoringState, map_id: str) -> tuple[MapRecord, HeadScores]:
    with state.database.read() as session:
        return maps.get_map(session, map_id), maps.get_scores(session, map_id)


def _model_here(name: str, settings: Settings) -> ModelInfo | None:
    try:
        return find_model(name, settings)
    except (ModelNotFound, UnsupportedModel):
        return None


def _check_shape(found: HeadScores, info: ModelInfo) -> None:
    ours = (found.num_layers, found.num_heads, found.num_kv_heads)
    models = (info.num_layers, info.num_heads, info.num_kv_heads)
    if ours != models:
        raise MapMismatch(
            f"scores: {ours[0]} layers x {ours[1]} heads with {ours[2]} KV heads; model {info.name!r} has "
            f"{models[0]} x {models[1]} with {models[2]}",
            param="scores",
        )
