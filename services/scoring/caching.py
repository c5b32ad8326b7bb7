"""Caching of answers about maps (RFC 9110, section 13; RFC 9111; RFC 8246): routes choose it by their class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

import headmap
from headmap.http.auth import key_name
from headmap.registry.maps import get_map
from services.scoring.deps import scoring_state
from services.scoring.preconditions import is_listed

YEAR_SECONDS = 31_536_000

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _CachedRoute(APIRoute):
    """Describes the 304 of GET calls in the OpenAPI document."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "GET" in (options.get("methods") or ()):
            options["responses"] = {304: {"description": "As If-None-Match says"}, **(options.get("responses") or {})}
        super().__init__(path, endpoint, **options)


class RevalidatedRoute(_CachedRoute):
    """GET answers get an ETag of their bytes. Caches ask before each use, and get 304 while the answer is the same."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            response = await handle(request)
            if request.method != "GET" or response.status_code != 200:
                return response
            return _tagged(request, response, _tag([bytes(response.body)]), "no-cache")

        return handler


class ImmutableRoute(_CachedRoute):
    """GET answers that depend on nothing but immutable maps and this code. Caches keep them for a year.

    The ETag follows from the checksums of the maps in the path, so a 304 costs no more than finding the maps.
    """

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            tag = await run_in_threadpool(_tag_of_maps, request)
            fresh = is_listed(tag, request.headers.get("if-none-match"))
            response = Response(status_code=304) if fresh else await handle(request)
            response.headers["Vary"] = "Accept"
            return _tagged(request, response, tag, f"max-age={YEAR_SECONDS}, immutable")

        return handler


def _tag_of_maps(request: Request) -> str:
    """Raises MapNotFound."""
    ids = [request.path_params[name] for name in ("map_id", "other_id") if name in request.path_params]
    with scoring_state(request).database.read() as session:
        checksums = [get_map(session, map_id).checksum for map_id in ids]
    # The code draws the pictures; of a page, Accept chooses the picture or the JSON.
    asked = (request.url.path, request.url.query, request.headers.get("accept", ""), headmap.__version__)
    return _tag(text.encode() for text in (*asked, *checksums))


def _tag(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return f'"{digest.hexdigest()[:32]}"'


def _tagged(request: Request, response: Response, tag: str, control: str) -> Response:
    """`response` with its headers for caches, or 304 if the caller has it already."""
    if is_listed(tag, request.headers.get("if-none-match")):
        vary = {"Vary": response.headers["vary"]} if "vary" in response.headers else None
        response = Response(status_code=304, headers=vary)
    response.headers["ETag"] = tag
    # What only keys may read, no shared cache may keep.
    response.headers["Cache-Control"] = f"{'public' if key_name(request) is None else 'private'}, {control}"
    return response
