"""Bodies of POST /maps: megabytes of numbers, each head's list read by itself when its mean is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, overload

from pydantic_core import from_json

from headmap.errors import InvalidScores, PayloadTooLarge
from headmap.http.bodies import MeasuredRoute, parse_json
from headmap.http.costs import LONG_TEXT, MAX_SHOWN, Costs
from services.scoring.caching import RevalidatedRoute

MAX_SCORES = 1 << 25
"""Of all heads, which take no memory beside the body: 5120 heads (a model of 70 billion parameters) over 6000 pages."""

_LONGEST_LIST = 4 * 2**20
_MOST_BESIDE = 8 * 2**20
_TEXT_OR_LIST = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|\[', re.DOTALL)
_AFTER_NUMBERS = re.compile(rb'[\[\]{}"]')
_EMPTY = re.compile(rb"\[\s*\]")
_PLACE = "\ue000scores:"
_PLACE_BYTES = b'"\\ue000scores:%d"'


class ScoreList(Sequence[Any]):
    """A list of numbers as it stands in a body. Raises InvalidScores where it is read and is not JSON."""

    def __init__(self, written: bytes | bytearray) -> None:
        self._written = written

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._read()[index]

    def __len__(self) -> int:
        commas = self._written.count(b",")
        return commas + 1 if commas or self._written[1:-1].strip() else 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read())

    def __repr__(self) -> str:
        return self._written[:MAX_SHOWN].decode("utf-8", "replace")

    def _read(self) -> list[Any]:
        try:
            read: list[Any] = from_json(self._written)
        except ValueError as error:
            raise InvalidScores(f"scores: not valid JSON, got {self!r}", param="scores") from error
        return read


def read_map(body: bytearray, costs: Costs) -> Any:
    """Parse `body`, with its lists of numbers as ScoreLists. This empties `body`.

    Raises ValueError where it is no JSON, and PayloadTooLarge where a list, or all but the lists, is too long.
    """
    lists: list[ScoreList] = []
    rest = bytearray()
    place = done = 0
    while (found := _TEXT_OR_LIST.search(body, place)) is not None:
        begin, place = found.span()
        if body[begin] == 0x22:
            continue
        after = _AFTER_NUMBERS.search(body, place, place + _LONGEST_LIST)
        if after is None and len(body) - place > _LONGEST_LIST:
            raise PayloadTooLarge(f"scores: a list of more than {_LONGEST_LIST} bytes", param="scores")
        if after is None or after[0] != b"]" or _EMPTY.match(body, begin):
            continue
        rest += body[done:begin]
        rest += _PLACE_BYTES % len(lists)
        place = done = after.end()
        lists.append(ScoreList(body[begin:done]))
    rest += body[done:]
    body.clear()
    if len(rest) > _MOST_BESIDE:
        raise PayloadTooLarge(f"body: more than {_MOST_BESIDE} bytes beside lists of scores", param="body")
    return _put_back(parse_json(rest, (), costs), lists)


def _put_back(value: Any, lists: Sequence[ScoreList]) -> Any:
    if isinstance(value, str) and value.startswith(_PLACE):
        number = value.removeprefix(_PLACE)
        return lists[int(number)] if number.isascii() and number.isdigit() and int(number) < len(lists) else value
    if isinstance(value, list):
        return [_put_back(one, lists) for one in value]
    if isinstance(value, dict):
        return {name: _put_back(one, lists) for name, one in value.items()}
    return value


class MapRoute(RevalidatedRoute, MeasuredRoute):
    """Reads bodies of maps, and lets caches ask whether an answer is still the same."""

    costs = Costs(values=MAX_SCORES, members=200_000, plain_bytes=1 << 30, text_bytes=LONG_TEXT)

    def parse(self, body: bytearray, long_texts: Sequence[tuple[int, int]], costs: Costs) -> Any:
        return read_map(body, costs)
