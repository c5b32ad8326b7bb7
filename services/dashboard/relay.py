"""Calls of the pages, handed on to the REST APIs with the session's key. Bodies and streams pass as they come."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import SecretStr
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from headmap.context import request_id
from headmap.errors import HeadmapError, InvalidParameter, NotFound, Unavailable
from services.dashboard.sessions import bearer
from services.dashboard.state import Key, State

logger = logging.getLogger(__name__)

_ALLOWED = re.compile(
    r"(score|evaluations|maps|policies|datasets)(/.+)?|generate(_stream)?|(de)?tokenize|info|ping|version|health(/.+)?|v1/.+|"
    r"((inference|scoring)/)?openapi\.json"
)
_ASKED = (b"accept", b"content-type", b"content-length", b"idempotency-key", b"if-match", b"if-none-match")
_ANSWERED = ("content-type", "content-disposition", "location", "retry-after", "x-request-id", "etag")
_LARGE = 1 << 16
# An event stream pings every 15 s, and a map of a large model is read within seconds.
_TIMEOUT = httpx.Timeout(120, connect=5)


def our_page(x_requested_with: Annotated[str | None, Header()] = None) -> None:
    """Raises InvalidParameter without this header, which other sites' pages cannot set unless CORS allows it."""
    if x_requested_with != "headmap":
        raise InvalidParameter(
            "X-Requested-With: must be headmap; only the dashboard's own pages may call", param="X-Requested-With"
        )


OurPage = Depends(our_page)
router = APIRouter(prefix="/dashboard/api")


@router.get("/{path:path}")
@router.put("/{path:path}", dependencies=[OurPage])
@router.post("/{path:path}", dependencies=[OurPage])
@router.delete("/{path:path}", dependencies=[OurPage])
async def relay(path: str, request: Request, state: State, key: Key) -> Response:
    """Raises NotFound for a path that is not the APIs', Unavailable where nothing answers, and Unauthorized before a
    large body is read."""
    if not _ALLOWED.fullmatch(path) or {"", ".", ".."} & set(path.split("/")):
        raise NotFound(f"there is no /{path}")
    if _is_large(request):
        await state.door.check(key)
    asked = [(name, value) for name, value in request.headers.raw if name in _ASKED]
    upstream = state.client.build_request(
        request.method,
        f"{state.addresses.api}/{quote(path)}",
        params=request.url.query.encode(),
        content=request.stream() if _has_body(request) else None,
        headers=[*asked, *_own_headers(request, key)],
        timeout=_TIMEOUT,
    )
    try:
        answer = await state.client.send(upstream, stream=True)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read it
    except httpx.HTTPError as error:
        logger.warning("no answer to %s /%s: %s", request.method, path, type(error).__name__)
        raise Unavailable("the service cannot be reached now") from error
    return _Relayed(answer)


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _is_large(request: Request) -> bool:
    return "transfer-encoding" in request.headers or int(request.headers.get("content-length", "0")) > _LARGE


def _own_headers(request: Request, key: SecretStr | None) -> list[tuple[bytes, bytes]]:
    headers = {"Accept-Encoding": "identity", "X-Request-ID": request_id.get() or "-", **bearer(key)}
    if request.client is not None:
        headers["X-Forwarded-For"] = request.client.host
    return [(name.encode(), value.encode("ascii", "replace")) for name, value in headers.items()]


class _Relayed(StreamingResponse):
    """An answer as it comes in. A browser that leaves hangs up on the service too, which ends a generation."""

    def __init__(self, answer: httpx.Response) -> None:
        headers = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
        headers |= {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_body(answer), answer.status_code, headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes. A stream of events that breaks off gets an error event as its end, so that every stream ends."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise
        logger.warning("a stream broke off: %s", type(error).__name__)
        yield b"\n\n" + _error_event(Unavailable("the service went away in the middle of its answer"))


def _error_event(error: HeadmapError) -> bytes:
    return f"event: error\ndata: {json.dumps(error.problem())}\n\n".encode()
