"""Limits on arriving request bodies: their size, their speed, and each caller's share of the server's memory."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headmap.errors import BodiesTooLarge, HeadmapError, RequestTimeout
from headmap.http.auth import KEY_NAME
from headmap.http.problems import error_response, too_large
from headmap.settings import Settings

_HELD = "headmap_held_bytes"


class SharedBytes:
    """`total` bytes shared by all callers. Each caller holds at most as many bytes as remain free.

    One caller alone gets half of the bytes. n callers get 1 / (n + 1) each, which leaves a share for the next one.

    Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches (1998), with alpha 1.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._by_caller: Counter[str] = Counter()

    def take(self, caller: str, size: int, field: str = "body") -> None:
        """Take bytes for `caller`. Raises BodiesTooLarge, which names `field`; the bytes stay taken even then."""
        self._held += size
        self._by_caller[caller] += size
        if size and self._by_caller[caller] > self._total - self._held:
            raise BodiesTooLarge(
                f"{field}: the bodies of your requests at work are more than the "
                f"{max(0, self._total - self._held)} bytes that are free of {self._total}",
                param=None if field == "body" else field,
            )

    def give_back(self, caller: str, size: int) -> None:
        self._held -= size
        self._by_caller[caller] -= size
        if self._by_caller[caller] <= 0:
            del self._by_caller[caller]


class RequestBytes:
    """The shared bytes that one request of `caller` holds: its body, its pictures by URL, and decompressed data."""

    def __init__(self, shared: SharedBytes, caller: str) -> None:
        self._shared, self.caller = shared, caller
        self._held = 0

    def take(self, size: int, field: str = "body") -> None:
        """Take bytes before allocating the memory. Raises BodiesTooLarge; the bytes stay taken even then."""
        self._held += size
        self._shared.take(self.caller, size, field)

    def give_back(self) -> None:
        """Give all bytes of this request back."""
        self._shared.give_back(self.caller, self._held)
        self._held = 0

    def part(self) -> RequestBytes:
        """Return a part for bytes that are given back before the request ends."""
        return RequestBytes(self._shared, self.caller)


def request_bytes(scope: Scope) -> RequestBytes:
    """Return the bytes that this request holds. `BodyLimitMiddleware` must have run before."""
    held: RequestBytes = scope[_HELD]
    return held


class Pace:
    """How long the server still waits for a body: a bucket of seconds, emptied by waiting and filled by bytes.

    The bucket starts full, so a body may fall behind `rate` (bytes per second) by `grace` seconds. Neither a fast start
    nor an occasional byte allows a longer pause. The whole body must arrive within `seconds` of waiting.
    """

    def __init__(self, rate: int, grace: float, seconds: float) -> None:
        self._rate, self._grace = rate, grace
        self._bucket, self._left = grace, seconds

    @property
    def patience(self) -> float:
        """The seconds to wait for the next bytes."""
        return max(0.0, min(self._bucket, self._left))

    def note(self, waited: float, size: int) -> None:
        """Note that `size` bytes arrived after `waited` seconds."""
        self._left -= waited
        self._bucket = min(self._grace, self._bucket - waited + size / self._rate)


class BodyLimitMiddleware:
    """Refuses bodies that are too large (413), arrive too slowly (408), or take more than a caller's share (429).

    A body is too large if its Content-Length or the bytes that arrived exceed the limit. A caller is a key or, without
    a key, an address. Only bytes that have arrived count for a caller's share, until the request ends, so a sender who
    announces much and sends little takes nothing from others. `limits`: paths with their own limits. `to_disk`: paths
    that write bodies to disk as they arrive; these bodies share the disk and not the memory.
    """

    def __init__(self, app: ASGIApp, settings: Settings, limits: Mapping[str, int], to_disk: frozenset[str]) -> None:
        self._app, self._settings, self._limits, self._to_disk = app, settings, limits, to_disk
        self._memory, self._disk = SharedBytes(settings.max_bodies_bytes), SharedBytes(settings.max_spool_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        settings, path, caller = self._settings, scope["path"], caller_of(scope)
        limit = self._limits.get(path, settings.max_body_bytes)
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            await error_response(too_large(limit), path)(scope, receive, send)
            return
        held = RequestBytes(self._disk if path in self._to_disk else self._memory, caller)
        scope[_HELD] = held
        pace = Pace(settings.body_min_rate, settings.body_grace_seconds, settings.body_seconds)
        clock = asyncio.get_running_loop().time
        arrived = 0
        whole = answering = False

        async def receive_bounded() -> Message:
            nonlocal arrived, whole
            if whole:
                return await receive()
            began = clock()
            try:
                async with asyncio.timeout(pace.patience):
                    message = await receive()
                size = len(message.get("body", b""))
                pace.note(clock() - began, size)
                arrived += size
                whole = not message.get("more_body", False)
                held.take(size)
                if arrived > limit:
                    raise too_large(limit)
            except TimeoutError:
                return refuse(
                    RequestTimeout(
                        f"body: {arrived} bytes came, too slowly: less than {settings.body_min_rate} bytes per second, "
                        f"or not all within {settings.body_seconds:g} seconds"
                    )
                )
            except HeadmapError as error:
                return refuse(error)
            return message

        def refuse(error: HeadmapError) -> Message:
            if answering:  # too late for another answer
                return {"type": "http.disconnect"}
            raise HTTPException(error.status, error.detail) from error

        async def send_noted(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, receive_bounded, send_noted)
        finally:
            held.give_back()


def caller_of(scope: Scope) -> str:
    """Return the caller whose share a request uses: its key, else its address. An IPv6 /64 network is one caller."""
    if KEY_NAME in scope:
        return f"key {scope[KEY_NAME]}"
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
