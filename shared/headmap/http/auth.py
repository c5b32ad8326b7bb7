"""ASGI middleware that admits callers by API key, its scopes and its limits. Health routes need no key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from headmap.errors import Forbidden, HeadmapError
from headmap.http.keyring import KeyRing
from headmap.http.limits import KeyLimits
from headmap.http.problems import error_response
from headmap.keys import ApiKey
from headmap.keys import Scope as KeyScope

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/ping"})
KEY_NAME = "headmap_key"
"""Where the connection's scope holds the name of the caller's key, for the log."""
_KEY = "headmap_api_key"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

SCOPES: Mapping[str, Mapping[str, KeyScope]] = {
    "": {"POST": KeyScope.INFER},
    "generate": {"POST": KeyScope.INFER},
    "generate_stream": {"POST": KeyScope.INFER},
    "tokenize": {"POST": KeyScope.INFER},
    "detokenize": {"POST": KeyScope.INFER},
    "v1": {"POST": KeyScope.INFER, "DELETE": KeyScope.INFER},
    "score": {"POST": KeyScope.SCORE, "DELETE": KeyScope.SCORE},
    "evaluations": {"POST": KeyScope.SCORE, "DELETE": KeyScope.SCORE},
    "datasets": {"POST": KeyScope.SCORE, "DELETE": KeyScope.ADMIN},
    "maps": {"POST": KeyScope.SCORE, "PATCH": KeyScope.SCORE, "PUT": KeyScope.ADMIN, "DELETE": KeyScope.ADMIN},
    "policies": {"PUT": KeyScope.ADMIN, "DELETE": KeyScope.ADMIN},
}
"""First part of a path -> method -> the scope that a key needs. Any key may read; what is not here needs `admin`."""


def key_name(request: Request) -> str | None:
    """The name of the caller's API key; None if calls need no key."""
    name: str | None = request.scope.get(KEY_NAME)
    return name


def needed_scope(method: str, path: str) -> KeyScope | None:
    """The scope that a call needs; None where any key will do."""
    if method in _READING:
        return None
    return SCOPES.get(path.removeprefix("/").partition("/")[0], {}).get(method, KeyScope.ADMIN)


def check_scope(scope: Scope, needed: KeyScope, why: str) -> None:
    """Raises Forbidden if the connection's key lacks the scope, with `why` it is needed. Open servers let all pass."""
    key: ApiKey | None = scope.get(_KEY)
    if key is not None and not key.may(needed):
        has = ", ".join(sorted(key.scopes)) or "none"
        raise Forbidden(f"{why} needs a key with the scope {needed.value}; API key {key.name!r} has {has}")


class AuthMiddleware:
    """Answers 401, 403, 429 or 503 instead of the application if the caller may not call, or must wait."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limits: KeyLimits) -> None:
        self._app, self._keys, self._limits = app, keys, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            key = await self._keys.admit(bearer_key(Headers(scope=scope).getlist("authorization")))
            if key is not None:
                scope[KEY_NAME], scope[_KEY] = key.name, key
                method = scope.get("method", "CONNECT")  # a WebSocket has none
                if (needed := needed_scope(method, scope["path"])) is not None:
                    check_scope(scope, needed, f"{method} {scope['path']}")
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
        await send({"type": "websocket.close", "code": 1008 if error.status in (401, 403) else 1013})
        return
    await error_response(error, scope["path"])(scope, receive, send)
