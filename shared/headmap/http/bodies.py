"""Routes whose JSON is measured while it arrives, and parsed in a thread in steps that are short."""

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
    """What an application's routes read JSON by: the bounds, and one parser at a time.

    A parser holds Python's lock in each of its steps; many at once would keep it from the event loop.
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
        """Grows as chunks come: joining a large body at the end would block for tens of milliseconds."""
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
        """FastAPI lets no other exception through where it reads a body."""
        self.refusal = error
        return HTTPException(error.status)


def parse_json(body: bytearray, long_texts: Sequence[tuple[int, int]], costs: Costs) -> Any:
    """Strict: UTF-8, with or without its mark, no half of a surrogate pair, at most 200 levels.

    `body` is empty afterwards: while an answer is made, its pictures need not lie in memory twice. Raises ValueError,
    and PayloadTooLarge for long texts that are not ASCII and more than `costs` allow.
    """
    if body.startswith(BOM_UTF8):
        body[:3] = b"   "
    spans = [(first, end) for first, end in long_texts if end - first >= LONG_TEXT]
    if not spans:
        value = from_json(body)
        body.clear()
        return value
    mark = secrets.token_hex(8)  # so that no text of the body can stand for another
    texts: list[str] = []
    wide = Allowance(costs.plain_bytes, "bytes in long texts that are not ASCII")
    for first, end in reversed(spans):
        parts = _read_text(body, first, end, wide)
        body[first:end] = f"{mark}{len(texts)}".encode()  # before they are joined: none is held three times
        texts.append("".join(parts))
    value = from_json(body)
    body.clear()
    return _put_back(value, mark, texts)


def _read_text(body: bytearray, first: int, end: int, wide: Allowance) -> list[str]:
    """The text at [first, end) of `body` in parts of a few MiB. Raises ValueError and PayloadTooLarge."""
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
    """The last index up to `place` that is within no character of UTF-8, no escape and no pair of surrogates."""
    while (escape := body.rfind(b"\\", place - len(r"\ud83d\ude00"), place)) >= 0:
        before = body[first : escape + 1]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:  # it is itself escaped
            break
        place = escape
        if body[escape + 1 : escape + 3].lower() != b"ud" or body[escape + 3] not in b"cdefCDEF":
            return place  # but a second surrogate belongs to what is before
    while body[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _put_back(value: Any, mark: str, texts: Sequence[str]) -> Any:
    """`value` with each mark in it replaced by its text, in place."""
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

    costs: bounds of its own; the application's where it has none.
    """

    costs: ClassVar[Costs | None] = None

    def parse(self, body: bytearray, long_texts: Sequence[tuple[int, int]], costs: Costs) -> Any:
        """What `body` holds; runs in a thread where it is large. Raises ValueError and PayloadTooLarge."""
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
    """For bodies of a few fields."""

    costs = SMALL
