"""ASGI middleware that admits callers by API key and applies the key's limits. Health routes need no key."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

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
    """Answers 401, 429 or 503 instead of the application if the caller may not call, or must wait."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limits: KeyLimits) -> None:
        self._app, self._keys, self._limits = app, keys, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            key = await self._keys.admit(bearer_key(Headers(scope=scope).getlist("authorization")))
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


def bearer_key(values: Sequence[str]) -> str | None:
    """Return the key in a request's Authorization headers (decoded as Latin-1), or None unless there is exactly one.

    With two headers, a proxy may have checked one and we the other. Clients encode non-ASCII letters of a key as
    UTF-8 or as Latin-1.
    """
    scheme, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        return None
    with suppress(UnicodeDecodeError):
        key = key.encode("latin-1").decode("utf-8")
    return key.strip() or None


async def _refuse(error: HeadmapError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008 if error.status == 401 else 1013})
        return
    await error_response(error, scope["path"])(scope, receive, send)
