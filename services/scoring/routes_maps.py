"""Maps over HTTP: import, export, search, read, annotate and delete them, and what a budget gives each head."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from headmap.budgets import DEFAULT_UNIFORM, Allocation, BudgetRule, allocate_budgets
from headmap.errors import BudgetTooSmall, MapMismatch, ModelNotFound, UnsupportedModel
from headmap.evaluation.selectors import check_selector
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.models import ModelInfo, find_model
from headmap.registry import maps
from headmap.registry.map_file import MapBody, add_map_file, read_map_file
from headmap.registry.map_search import NEWEST_FIRST, MapSearch
from headmap.registry.maps import MapRecord
from headmap.settings import Settings
from services.scoring import deps
from services.scoring.deps import Caller, MapId, ReadSession, State, WriteSession
from services.scoring.kv_config import bytes_per_token_per_head, sliding_layers
from services.scoring.map_bodies import MapRoute
from services.scoring.schemas import Budgets, MapImport, MapList, MapNotes, ResolvedMap

router = APIRouter(route_class=MapRoute, tags=["maps"])

_NO_MAP: dict[int | str, dict[str, Any]] = {404: {"description": "No such map"}}
_INVALID: dict[int | str, dict[str, Any]] = {422: {"description": "Invalid request"}}


def _search(
    model: deps.ModelFilter = None,
    revision: deps.RevisionQuery = None,
    alias: deps.AliasQuery = None,
    tag: deps.TagFilter = [],  # noqa: B006  # FastAPI copies it
    kind: deps.KindFilter = None,
    dataset: deps.DatasetFilter = None,
    rule: deps.RuleFilter = None,
    min_pages: deps.MinPages = None,
    text: deps.TextFilter = None,
    order_by: deps.OrderBy = NEWEST_FIRST,
) -> MapSearch:
    return MapSearch(
        model=model,
        revision=revision,
        alias=alias,
        tags=tuple(tag),
        kind=kind,
        dataset=dataset,
        rule=rule,
        min_pages=min_pages,
        text=text,
        order_by=order_by,
    )


Search = Annotated[MapSearch, Depends(_search)]


@router.post(
    "/maps",
    status_code=201,
    summary="Import a map",
    responses={
        201: {"headers": {"Location": {"description": "/maps/{id}", "schema": {"type": "string"}}}},
        409: {"description": "The model is here, and of another shape"},
    },
)
def import_map(
    body: MapImport, request: Request, state: State, session: WriteSession, caller: Caller, response: Response
) -> MapRecord:
    """The file that an export gives, as it is, or at least a model, its KV heads and scores."""
    deps.check_promotion(request, body.promote)
    file = body.read()
    info = _model_here(file.model, state.settings)
    if info is not None:
        _check_shape(file.scores, info)
        if file.provenance.architecture is None:
            file = replace(file, provenance=replace(file.provenance, architecture=info.architecture))
    map_id = add_map_file(session, file, promote=body.promote, by=caller)
    response.headers["Location"] = f"/maps/{map_id}"
    return maps.get_map(session, map_id)


@router.get("/maps", summary="Maps, newest first, or as you search")
def listing(session: ReadSession, search: Search, limit: deps.Limit = 50, cursor: deps.Cursor = None) -> MapList:
    """A map is listed if all that is asked holds."""
    page = maps.list_maps(session, search, limit=limit, cursor=cursor)
    return MapList(items=page.items, next_cursor=page.next_cursor)


@router.get("/maps/resolve", summary="The map to serve a model with", responses=_NO_MAP)
def resolve(
    session: ReadSession, model: deps.ModelQuery, revision: deps.RevisionQuery = None, alias: deps.AliasQuery = None
) -> ResolvedMap:
    record, match = maps.resolve_map(session, model, revision, alias)
    return ResolvedMap(**vars(record), match=match)


@router.get("/maps/{map_id}", summary="A map with its provenance", responses=_NO_MAP)
def show(map_id: MapId, session: ReadSession) -> MapRecord:
    return maps.get_map(session, map_id)


@router.get(
    "/maps/{map_id}/export",
    summary="The map as a file, with all that is known about it",
    responses=_NO_MAP,
    response_model=MapBody,
)
def export(map_id: MapId, session: ReadSession) -> Response:
    """`POST /maps`, `headmap maps import` and the dashboard take the file as it is."""
    file = read_map_file(session, map_id)
    disposition = f'attachment; filename="{file.name}"'
    return Response(file.text(), media_type="application/json", headers={"Content-Disposition": disposition})


@router.get(
    "/maps/{map_id}/budgets",
    summary="Tokens that each KV head keeps",
    response_model_exclude_none=True,
    responses=_NO_MAP | _INVALID,
)
def budgets(
    map_id: MapId,
    state: State,
    session: ReadSession,
    budget: deps.Budget = 256,
    prompt_tokens: deps.PromptTokens = 2880,
    allocation: Allocation = "exact",
    window: deps.Window = None,
    keep_recent: deps.KeepRecent = None,
    select: deps.Selector = None,
    uniform: deps.Uniform = DEFAULT_UNIFORM,
) -> Budgets:
    """Sliding layers always hold their window; the budget is for the heads of the other layers."""
    name, kept = ("window", window) if keep_recent is None else ("keep_recent", keep_recent)
    if kept is not None and kept >= budget:
        raise BudgetTooSmall(f"{name}: must be below the budget of {budget} tokens, got {kept}", param=name)
    selector = None if select is None else check_selector(select, "select")
    request = KVRequest(window=window, keep_recent=keep_recent, select=selector)
    record, found = maps.get_map(session, map_id), maps.get_scores(session, map_id)
    recent, observe = request.recent(budget)
    rule = BudgetRule(budget, recent, uniform, allocation)
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
        window=request.selector.settled(observe).window,
        keep_recent=recent,
        uniform=uniform,
        sliding_window=sliding_window,
        sliding_layers=list(sliding),
        bytes_per_token_per_head=bytes_per_token_per_head(info, state.settings) if info else None,
    )


@router.patch("/maps/{map_id}", summary="Write tags and notes on a map", responses=_NO_MAP)
def annotate(map_id: MapId, body: MapNotes, session: WriteSession) -> MapRecord:
    return maps.annotate_map(session, map_id, body.model_dump(exclude_unset=True))


@router.delete(
    "/maps/{map_id}",
    status_code=204,
    summary="Delete a map that no alias points at and no policy names",
    responses=_NO_MAP | {409: {"description": "An alias points at it, or a policy names it"}},
)
def delete(map_id: MapId, session: WriteSession) -> None:
    """No other map of the model gets its number."""
    maps.delete_map(session, map_id)


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
