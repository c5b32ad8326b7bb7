"""ASGI middleware for request ids, traces, access log, metrics and headers. It does not buffer streams."""

from __future__ import annotations

import logging
import re
import time
import uuid

from anyio import CancelScope
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headmap.context import request_id
from headmap.http.auth import KEY_NAME, OPEN_PATHS
from headmap.http.metrics import METHODS, Metrics
from headmap.http.problems import SECURITY_HEADERS
from headmap.tracing import NO_SPAN, Span, Tracer, entered

logger = logging.getLogger("headmap.access")

# For data, including SVG heatmaps: if a browser shows it as a page, it can load and run nothing.
NO_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_UNTRACED = OPEN_PATHS | {"/metrics"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Gives each request an id (the client's X-Request-ID if that is a plain text) and a span, logs and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer) -> None:
        self._app, self._metrics, self._tracer = app, metrics, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
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

        with entered(self._begin(scope, headers)) as span:
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                self._metrics.observe(scope["method"], route, status, seconds)
                if scope["path"] not in OPEN_PATHS:
                    extra = {"method": scope["method"], "path": scope["path"], "status": status}
                    logger.info("request", extra={**extra, "key": scope.get(KEY_NAME), "ms": round(seconds * 1000, 1)})
                _describe_end(span, scope, status)
                request_id.reset(token)

    def _begin(self, scope: Scope, headers: Headers) -> Span:
        if scope["path"] in _UNTRACED:
            return NO_SPAN
        known = scope["method"] in METHODS
        about = {
            "http.request.method": scope["method"] if known else "_OTHER",
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        return self._tracer.start(scope["method"] if known else "HTTP", "server", headers, about)


def _describe_end(span: Span, scope: Scope, status: int) -> None:
    """Semantic conventions for HTTP spans: a client's mistake is no error of the server's."""
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        span.rename(f"{scope['method']} {route}")
    span.set({"http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.fail(str(status))


class SecurityHeadersMiddleware:
    """Sets missing SECURITY_HEADERS on every answer, and a content policy on answers that are not pages."""

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
    """Removes trailing slashes from the path before routing. A redirect would lose the body of a POST."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw: bytes = scope.get("raw_path") or scope["path"].encode()
            slashes = len(raw) - len(raw.rstrip(b"/"))  # a slash within a parameter is %2F there
            if slashes and len(raw) > 1:
                scope["path"] = scope["path"][:-slashes] or "/"
                scope["raw_path"] = raw[:-slashes] or b"/"
        await self._app(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD with the headers of GET. A stream ends after its headers; other answers run to their end."""

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
