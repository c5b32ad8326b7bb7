"""Routes whose JSON may be megabytes of pictures: parsed in a thread, so that the event loop turns meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from json import JSONDecodeError
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic_core import from_json

_LARGE = 1 << 16


class _LargeRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return await run_in_threadpool(_parse, body) if len(body) > _LARGE else _parse(body)


def _parse(body: bytes) -> Any:
    """Strict: UTF-8, no half of a surrogate pair, at most 200 levels. Takes a quarter of json's time."""
    try:
        return from_json(body)
    except ValueError as error:
        raise JSONDecodeError(str(error), "", 0) from error


class LargeBodyRoute(APIRoute):
    """`APIRouter(route_class=LargeBodyRoute)`. Many bodies that arrive at once are then parsed between other events."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_LargeRequest(request.scope, request.receive))

        return handler
