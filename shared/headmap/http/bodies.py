"""Routes that measure their JSON body while it arrives, and parse a large one in a thread, in short steps."""

from __future__ import annotations

import secrets
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine, Sequence
from json import JSONDecodeError
from typing import Any, ClassVar, cast

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from headmap.errors import HeadmapError
from headmap.http.costs import LONG_TEXT, SMALL, Allowance, Costs, JsonMeter
from headmap.settings import Settings

_STEP = 4 * 2**20

Parse = Callable[[bytearray, Sequence[tuple[int, int]], Costs], Any]
"""As MeasuredRoute.parse."""


class JsonReader:
    """How an application's routes read JSON: the bounds, and a limit of one parser at a time.

    A parser holds the GIL during each step. Many parsers at once would block the event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.costs = Costs.of(settings)
        self.parsers = CapacityLimiter(1)


def install_reader(app: FastAPI, settings: Settings) -> None:
    """Bound the JSON of `app`'s routes by `settings`."""
    app.state.json_reader = JsonReader(settings)


class _MeasuredRequest(Request):
    def __init__(self, request: Request, costs: Costs, parse: Parse) -> None:
        super().__init__(request.scope, request.receive)
        self._reader: JsonReader = request.app.state.json_reader
        self._costs, self._parse = costs, parse
        self._meter = JsonMeter(costs)
        self._whole: bytearray | None = None
        self.refusal: HeadmapError | None = None

    async def body(self) -> bytes:
        """Append each chunk as it arrives. Joining a large body at the end would block for tens of milliseconds."""
        if self._whole is None:
            self._whole = bytearray()
            async for chunk in self.stream():
                self._whole += chunk
                self._measure(ended=False)
            self._measure(ended=True)
        return cast(bytes, self._whole)

    async def json(self) -> Any:
        body = cast(bytearray, await self.body())
        try:
            if len(body) <= LONG_TEXT:
                return self._parse(body, (), self._costs)
            arguments = (body, self._meter.long_texts, self._costs)
            return await to_thread.run_sync(self._parse, *arguments, limiter=self._reader.parsers)
        except HeadmapError as error:
            raise self._refused(error) from error
        except ValueError as error:
            raise JSONDecodeError(str(error), "", 0) from error

    def _measure(self, *, ended: bool) -> None:
        try:
            self._meter.feed(cast(bytearray, self._whole), ended=ended)
        except HeadmapError as error:
            raise self._refused(error) from error

    def _refused(self, error: HeadmapError) -> HTTPException:
        """Wrap `error` in an HTTPException, the only exception that FastAPI passes on while it reads a body."""
        self.refusal = error
        return HTTPException(error.status)


def parse_json(body: bytearray, long_texts: Sequence[tuple[int, int]], costs: Costs) -> Any:
    """Parse strictly: UTF-8 with or without a byte order mark, no lone surrogates, at most 200 levels.

    This empties `body`, so that its pictures are not in memory twice while the server makes the answer. Raises
    ValueError, and PayloadTooLarge if the long texts that are not ASCII exceed `costs`.
    """
    if body.startswith(BOM_UTF8):
        body[:3] = b"   "
    spans = [(first, end) for first, end in long_texts if end - first >= LONG_TEXT]
    if not spans:
        value = from_json(body)
        body.clear()
        return value
    mark = secrets.token_hex(8)  # random, so that no text of the body can imitate it
    texts: list[str] = []
    wide = Allowance(costs.plain_bytes, "bytes in long texts that are not ASCII")
    for first, end in reversed(spans):
        parts = _read_text(body, first, end, wide)
        body[first:end] = f"{mark}{len(texts)}".encode()  # before the join: at most two copies
        texts.append("".join(parts))
    value = from_json(body)
    body.clear()
    return _put_back(value, mark, texts)


def _read_text(body: bytearray, first: int, end: int, wide: Allowance) -> list[str]:
    """Read the text at [first, end) of `body` in parts of a few MiB. Raises ValueError and PayloadTooLarge."""
    parts: list[str] = []
    length, narrow = end - first, True
    while first < end:
        cut = end if end - first <= _STEP else _cut(body, first, first + _STEP)
        part = bytearray(b'"')
        part += memoryview(body)[first:cut]
        part += b'"'
        parts.append(from_json(part))
        if narrow and not parts[-1].isascii():
            narrow = False
            wide.spend(length, "body")  # each character may take four bytes
        first = cut
    return parts


def _cut(body: bytearray, first: int, place: int) -> int:
    """Return the last index up to `place` that does not split a UTF-8 character, an escape or a surrogate pair."""
    while (escape := body.rfind(b"\\", place - len(r"\ud83d\ude00"), place)) >= 0:
        before = body[first : escape + 1]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:  # the backslash is itself escaped
            break
        place = escape
        if body[escape + 1 : escape + 3].lower() != b"ud" or body[escape + 3] not in b"cdefCDEF":
            return place  # go on for a low surrogate: it belongs to the escape before it
    while body[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _put_back(value: Any, mark: str, texts: Sequence[str]) -> Any:
    """Replace each mark in `value` by its text, in place, and return the value."""
    if isinstance(value, str):
        return texts[int(value[len(mark) :])] if value.startswith(mark) else value
    if isinstance(value, list):
        for index, one in enumerate(value):
            if isinstance(one, str | list | dict):
                value[index] = _put_back(one, mark, texts)
    elif isinstance(value, dict):
        for name, one in value.items():
            if isinstance(one, str | list | dict):
                value[name] = _put_back(one, mark, texts)
        for name in [name for name in value if name.startswith(mark)]:
            value[texts[int(name[len(mark) :])]] = value.pop(name)
    return value


class MeasuredRoute(APIRoute):
    """`APIRouter(route_class=MeasuredRoute)`, on an application with `install_reader`.

    costs: the route's own bounds; if None, the application's bounds apply.
    """

    costs: ClassVar[Costs | None] = None

    def parse(self, body: bytearray, long_texts: Sequence[tuple[int, int]], costs: Costs) -> Any:
        """Parse `body`; a large one is parsed in a thread. Raises ValueError and PayloadTooLarge."""
        return parse_json(body, long_texts, costs)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            measured = _MeasuredRequest(request, self.costs or request.app.state.json_reader.costs, self.parse)
            try:
                return await handle(measured)
            except HTTPException:
                if measured.refusal is not None:
                    raise measured.refusal from None
                raise

        return handler


class SmallRoute(MeasuredRoute):
    """A route for bodies of a few fields."""

    costs = SMALL
