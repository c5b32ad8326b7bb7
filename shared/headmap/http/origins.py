"""Refuse cross-site posts that a browser sends without a preflight request, on every route.

A page may post forms, plain text and untyped bytes to any address that its visitor can reach, without a preflight
(Fetch standard, "CORS-safelisted request-header"). Browsers name the page's site in Sec-Fetch-Site and Origin, and no
page can set these headers. Other programs send neither.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from headmap.errors import CrossSite
from headmap.http.problems import error_response

_UNASKED = frozenset({"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})


class OriginMiddleware:
    """Answers 403 to cross-site posts, unless they come from our pages or from `origins`."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            headers = Headers(scope=scope)
            if _media_type(headers) in _UNASKED and not self._may(headers):
                error = CrossSite(
                    f"Origin: {headers.get('origin', 'another site')!r} is not one of HEADMAP_CORS_ORIGINS, and a page "
                    "elsewhere may not post forms or plain text"
                )
                await error_response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _may(self, headers: Headers) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in ("same-origin", "none") or origin in self._origins or "*" in self._origins:
            return True
        if site is not None:
            return False
        return origin is None or _host(origin) == headers.get("host", "").lower()  # for browsers without Sec-Fetch-Site


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _host(origin: str) -> str | None:
    """Return the host of an origin, or None if it has no host, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
