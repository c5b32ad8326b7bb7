"""Maps as pictures: heatmaps, a scatter of two maps, and pages with where one head looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVarTuple

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from headmap.errors import QueueFull
from headmap.pictures.drawing import PictureForm
from headmap.pictures.heatmap import HeatmapView, Picture, draw
from headmap.pictures.overlay import Caption, draw_overlay
from headmap.pictures.scatter import MapName, draw_scatter
from headmap.registry.looks import get_looks, list_looks
from headmap.registry.maps import check_head, get_map, get_scores
from services.scoring import deps
from services.scoring.caching import ImmutableRoute
from services.scoring.deps import MapId, ScoringState, State
from services.scoring.schemas import LookBody, OverlayBody, WordBody

router = APIRouter(route_class=ImmutableRoute, tags=["pictures"])

View = Annotated[HeatmapView, Query(description="query heads, or KV heads with the scores of their query heads added")]
_INVALID: dict[int | str, dict[str, Any]] = {422: {"description": "Invalid request"}}
_NO_MAP: dict[int | str, dict[str, Any]] = {404: {"description": "No such map"}}
BUSY = {"description": "Too many pictures wait to be drawn"}
_MAX_WAITING = 32
_RETRY_SECONDS = 2
Ts = TypeVarTuple("Ts")


def _picture(media: str, what: str) -> dict[int | str, dict[str, Any]]:
    return {**_NO_MAP, 200: {"content": {media: {}}, "description": what}, 429: BUSY}


async def drawn(
    state: ScoringState, media: str, draw: Callable[[ScoringState, *Ts], bytes], *arguments: *Ts
) -> Response:
    """The picture that `draw` makes, in one of the few threads for that. Raises QueueFull."""
    if state.drawing.statistics().tasks_waiting >= _MAX_WAITING:
        raise QueueFull(f"{_MAX_WAITING} pictures wait to be drawn", retry_after=_RETRY_SECONDS)
    picture = await to_thread.run_sync(draw, state, *arguments, limiter=state.drawing)
    return Response(picture, media_type=media)


@router.get(
    "/maps/{map_id}/heatmap.svg",
    summary="The map as a picture",
    response_class=Response,
    responses=_picture("image/svg+xml", "Layers down, heads across"),
)
async def heatmap_svg(map_id: MapId, state: State, view: View = "heads") -> Response:
    return await drawn(state, "image/svg+xml", _heatmap, map_id, "svg", view)


@router.get(
    "/maps/{map_id}/heatmap.png",
    summary="The map as a picture",
    response_class=Response,
    responses=_picture("image/png", "Layers down, heads across"),
)
async def heatmap_png(map_id: MapId, state: State, view: View = "heads") -> Response:
    return await drawn(state, "image/png", _heatmap, map_id, "png", view)


def _heatmap(state: ScoringState, map_id: str, form: PictureForm, view: HeatmapView) -> bytes:
    with state.database.read() as session:
        record, scores = get_map(session, map_id), get_scores(session, map_id)
    return draw(scores, Picture(record.model, record.version, record.pages), form, view=view)


@router.get(
    "/maps/{map_id}/compare/{other_id}/scatter.svg",
    summary="Two maps against each other",
    response_class=Response,
    responses=_picture("image/svg+xml", "A dot for each head") | _INVALID,
)
async def scatter_svg(map_id: MapId, other_id: deps.OtherMapId, state: State) -> Response:
    return await drawn(state, "image/svg+xml", _scatter, map_id, other_id, "svg")


@router.get(
    "/maps/{map_id}/compare/{other_id}/scatter.png",
    summary="Two maps against each other",
    response_class=Response,
    responses=_picture("image/png", "A dot for each head") | _INVALID,
)
async def scatter_png(map_id: MapId, other_id: deps.OtherMapId, state: State) -> Response:
    return await drawn(state, "image/png", _scatter, map_id, other_id, "png")


def _scatter(state: ScoringState, map_id: str, other_id: str, form: PictureForm) -> bytes:
    with state.database.read() as session:
        records = get_map(session, map_id), get_map(session, other_id)
        ours, theirs = get_scores(session, map_id), get_scores(session, other_id)
    return draw_scatter(
        ours,
        theirs,
        (MapName(records[0].model, records[0].version), MapName(records[1].model, records[1].version)),
        form,
    )


@router.get(
    "/maps/{map_id}/heads/{layer}/{head}/overlay",
    summary="One page with where one head looked, as a picture or as JSON",
    response_class=Response,
    responses={
        404: {"description": "No such map, head or page"},
        429: BUSY,
        200: {
            "model": OverlayBody,
            "content": {"image/png": {}},
            "description": "The page, the words the head hit, and where it looked for each",
        },
    },
)
async def overlay(
    map_id: MapId,
    layer: deps.Layer,
    head: deps.Head,
    state: State,
    page: Annotated[int, Query(ge=0, le=2**31 - 1, description="index of one of the job's first pages")] = 0,
    form: Annotated[
        Literal["png", "json"] | None,
        Query(alias="format", description="form of the answer; the Accept header decides by default"),
    ] = None,
    accept: Annotated[str, Header(max_length=1024)] = "*/*",
) -> Response:
    """Where a head looked. The worker stores this for a job's first pages; an imported map has none."""
    if form == "json" or (form is None and _prefers_json(accept)):
        body = await run_in_threadpool(_looks, state, map_id, layer, head, page)
        return JSONResponse(body.model_dump())
    return await drawn(state, "image/png", _overlay, map_id, layer, head, page)


def _looks(state: ScoringState, map_id: str, layer: int, head: int, page: int) -> OverlayBody:
    with state.database.read() as session:
        check_head(get_map(session, map_id), layer, head)
        looks, pages = get_looks(session, map_id, page), list_looks(session, map_id)
    found = looks.of_head(layer, head)
    return OverlayBody(
        map_id=map_id,
        layer=layer,
        head=head,
        page=page,
        pages=pages,
        width=looks.width,
        height=looks.height,
        hits=sum(look.hit for look in found),
        words=[WordBody(text=text, box=box) for text, box in looks.words],
        looks=[LookBody.model_validate(look) for look in found],
    )


def _overlay(state: ScoringState, map_id: str, layer: int, head: int, page: int) -> bytes:
    with state.database.read() as session:
        record = get_map(session, map_id)
        check_head(record, layer, head)
        looks = get_looks(session, map_id, page)
    return draw_overlay(looks, Caption(record.model, record.version, layer, head, page))


def _prefers_json(accept: str) -> bool:
    """Whether a client accepts JSON and no picture. Browsers and image tags get the picture."""
    return "json" in accept and "image/" not in accept
