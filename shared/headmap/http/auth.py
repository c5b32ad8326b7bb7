"""ASGI middleware that lets callers in by key, within the key's limits. Health needs no key."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from headmap.errors import HeadmapError
from headmap.http.keyring import KeyRing
from headmap.http.limits import KeyLimits
from headmap.http.problems import error_response

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/ping"})
KEY_NAME = "headmap_key"
"""Where the scope holds the name of the caller's key, for the log."""


class AuthMiddleware:
    """Answers 401, 429 or 503 instead of the application to callers who may not call, or not yet."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limits: KeyLimits) -> None:
        self._app, self._keys, self._limits = app, keys, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            key = await self._keys.admit(_bearer(scope))
            if key is not None:
                scope[KEY_NAME] = key.name
                await self._limits.enter(key)
        except HeadmapError as error:
            await _refuse(error, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if key is not None:
                self._limits.leave(key)


def _bearer(scope: Scope) -> str | None:
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


async def _refuse(error: HeadmapError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008 if error.status == 401 else 1013})
        return
    await error_response(error, scope["path"])(scope, receive, send)
