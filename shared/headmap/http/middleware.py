"""ASGI middleware: request ids, access log and metrics, keys, and a limit on bodies. Streams pass through untouched."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headmap.errors import Unauthorized
from headmap.http.context import request_id
from headmap.http.metrics import Metrics
from headmap.http.problems import error_response, too_large

logger = logging.getLogger("headmap.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready"})


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
                extra = {"method": scope["method"], "path": scope["path"], "status": status}
                logger.info("request", extra={**extra, "ms": round(seconds * 1000, 1)})
            request_id.reset(token)


class AuthMiddleware:
    """Lets in who knows one of the keys; health is open. Takes the same time for every wrong key."""

    def __init__(self, app: ASGIApp, keys: tuple[SecretStr, ...]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.strip().encode()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() == "bearer" and any(matches):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        error = Unauthorized("Authorization: Bearer KEY is needed, with a key of this deployment")
        await error_response(error, scope["path"])(scope, receive, send)


class BodyLimitMiddleware:
    """Refuses bodies above `limit` bytes with 413: by their Content-Length, or once more has arrived."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > self._limit:
            await error_response(too_large(self._limit), scope["path"])(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._limit:
                raise HTTPException(413, f"body: more than {self._limit} bytes")
            return message

        await self._app(scope, counted, send)
