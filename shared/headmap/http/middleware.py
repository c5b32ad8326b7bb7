"""ASGI middleware: request ids, access log and metrics, headers, and limits on bodies. Streams pass untouched."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping

from anyio import CancelScope
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headmap.context import request_id
from headmap.http.auth import KEY_NAME, OPEN_PATHS
from headmap.http.metrics import Metrics
from headmap.http.problems import SECURITY_HEADERS, error_response, too_large

logger = logging.getLogger("headmap.access")

# For data, heatmaps in SVG included: shown as a page, it can load and run nothing.
NO_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Gives each request an id (the client's X-Request-ID where it is a plain one), logs and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        current = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(current)
        scope["headmap_request_id"] = current  # for the outermost handler, which runs when the variable is unset
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.observe(scope["method"], route, status, seconds)
            if scope["path"] not in OPEN_PATHS:
                extra = {"method": scope["method"], "path": scope["path"], "status": status, "key": scope.get(KEY_NAME)}
                logger.info("request", extra={**extra, "ms": round(seconds * 1000, 1)})
            request_id.reset(token)


class SecurityHeadersMiddleware:
    """Sets SECURITY_HEADERS on every answer that does not set them itself, and a policy on answers that are no page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if not headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", NO_PAGE_POLICY)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class SlashMiddleware:
    """Lets a path that ends in slashes name what it names without them, in place: a redirected POST loses its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw: bytes = scope.get("raw_path") or scope["path"].encode()
            slashes = len(raw) - len(raw.rstrip(b"/"))  # a parameter's own is %2F there
            if slashes and len(raw) > 1:
                scope["path"] = scope["path"][:-slashes] or "/"
                scope["raw_path"] = raw[:-slashes] or b"/"
        await self._app(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD with the headers of GET. A stream is left once they are there; other answers run to their end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}

        async def send_headers(message: Message) -> None:
            if message["type"] != "http.response.start":
                return
            await send(message)
            await send({"type": "http.response.body", "body": b""})
            if "content-length" not in Headers(raw=message["headers"]):
                answering.cancel()

        with CancelScope() as answering:
            await self._app(asked, receive, send_headers)
        if "route" in asked:
            scope["route"] = asked["route"]  # for the metrics


class BodyLimitMiddleware:
    """Refuses bodies above `limit` bytes with 413: by their Content-Length, or once more has arrived.

    Also refuses with 429 a body that would take the bodies of all open requests above `total` bytes. Only bytes that
    have arrived count, until the request ends, so senders who announce much and send little take nothing from others.
    `to_disk`: paths whose bodies are written to disk as they come, each with a limit of its own; they take no part in
    the total.
    """

    def __init__(self, app: ASGIApp, limit: int, total: int, to_disk: Mapping[str, int]) -> None:
        self._app, self._limit, self._total, self._to_disk = app, limit, total, to_disk
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held_in_memory = scope["path"] not in self._to_disk
        limit = self._to_disk.get(scope["path"], self._limit)
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            await error_response(too_large(limit), scope["path"])(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            size = len(message.get("body", b""))
            arrived += size
            if held_in_memory:
                self._held += size
            if arrived > limit:
                raise HTTPException(413, f"body: more than {limit} bytes")
            if held_in_memory and self._held > self._total:
                raise HTTPException(
                    429, f"body: the bodies of all requests are more than {self._total} bytes", {"Retry-After": "1"}
                )
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            if held_in_memory:
                self._held -= arrived
