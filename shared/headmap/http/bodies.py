"""Routes whose JSON may be megabytes of pictures: parsed in a thread, so that the event loop turns meanwhile."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine
from json import JSONDecodeError
from typing import Any, cast

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

_LARGE = 1 << 16


class _LargeRequest(Request):
    def __init__(self, request: Request, parsers: CapacityLimiter) -> None:
        super().__init__(request.scope, request.receive)
        self._parsers = parsers
        self._whole: bytearray | None = None

    async def body(self) -> bytes:
        """Grows as chunks come: joining a large body at the end would block for tens of milliseconds."""
        if self._whole is None:
            self._whole = bytearray()
            async for chunk in self.stream():
                self._whole += chunk
        return cast(bytes, self._whole)

    async def json(self) -> Any:
        body = await self.body()
        return await to_thread.run_sync(_parse, body, limiter=self._parsers) if len(body) > _LARGE else _parse(body)


def _parse(body: bytes) -> Any:
    """Strict: UTF-8, with or without its mark, no half of a surrogate pair, at most 200 levels. Takes a quarter of
    json's time."""
    try:
        return from_json(body.removeprefix(BOM_UTF8) if body.startswith(BOM_UTF8) else body)
    except ValueError as error:
        raise JSONDecodeError(str(error), "", 0) from error


class LargeBodyRoute(APIRoute):
    """`APIRouter(route_class=LargeBodyRoute)`. Many bodies that arrive at once are then parsed between other events."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        # A parser holds Python's lock while it runs: many at once would keep it from the event loop.
        parsers = CapacityLimiter(1)

        async def handler(request: Request) -> Response:
            return await handle(_LargeRequest(request, parsers))

        return handler
