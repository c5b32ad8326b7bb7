"""Routes whose JSON may be megabytes of pictures: parsed in a thread, so that the event loop turns meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from json import loads
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

_LARGE = 1 << 16


class _LargeRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        return await run_in_threadpool(loads, body) if len(body) > _LARGE else loads(body)


class LargeBodyRoute(APIRoute):
    """`APIRouter(route_class=LargeBodyRoute)`. Many bodies that arrive at once are then parsed between other events."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_LargeRequest(request.scope, request.receive))

        return handler
