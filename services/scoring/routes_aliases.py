"""Aliases over HTTP: point them, delete them, and see who moved them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from headmap.registry import aliases
from headmap.registry.maps import MapRecord, get_map, set_alias
from services.scoring import deps
from services.scoring.deps import MapId, ReadSession, WriteSession
from services.scoring.preconditions import expected_of
from services.scoring.schemas import MoveBody, MoveList

router = APIRouter(tags=["maps"])

_ETAG = {"ETag": {"description": "the map that the alias points at, for If-Match", "schema": {"type": "string"}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such map or alias"},
    412: {"description": "If-Match: the alias points elsewhere by now"},
}

IfMatch = Annotated[
    str | None,
    Header(
        max_length=1024,
        description="only while the alias points at this map: its id in quotes, as in ETag; * for any map",
    ),
]


@router.get("/maps/{map_id}/aliases/history", summary="Who moved the aliases of the map's model", responses=_ANSWERS)
def history(
    map_id: MapId,
    session: ReadSession,
    alias: deps.AliasQuery = None,
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> MoveList:
    """Moves of all aliases of the map's model, newest first."""
    page = aliases.history(session, get_map(session, map_id).model, alias=alias, limit=limit, cursor=cursor)
    return MoveList(items=[MoveBody.model_validate(move) for move in page.items], next_cursor=page.next_cursor)


@router.put(
    "/maps/{map_id}/aliases/{alias}",
    summary="Point an alias of the model at this map",
    responses=_ANSWERS | {200: {"headers": _ETAG}, 409: {"description": "The map is not visual"}},
)
def point(
    map_id: MapId,
    alias: deps.Alias,
    session: WriteSession,
    caller: deps.Caller,
    response: Response,
    if_match: IfMatch = None,
) -> MapRecord:
    record = set_alias(session, map_id, alias, by=caller, expected=expected_of(if_match, "MAP_ID"))
    response.headers["ETag"] = f'"{map_id}"'
    return record


@router.delete(
    "/maps/{map_id}/aliases/{alias}",
    status_code=204,
    summary="Delete an alias that points at this map",
    responses=_ANSWERS,
)
def remove(
    map_id: MapId, alias: deps.Alias, session: WriteSession, caller: deps.Caller, if_match: IfMatch = None
) -> None:
    model = get_map(session, map_id).model
    aliases.remove(session, model, alias, map_id, by=caller, expected=expected_of(if_match, "MAP_ID"))
