"""Limits on the cost of a request. Every stage checks them before it does any work.

Bytes on the wire, bytes and pixels of pictures, and prompt tokens are settings. `Costs` has the limits that follow from
these settings or that no deployment needs to choose. They keep each uninterrupted step below about 50 ms of one core,
and memory near the size of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from headmap.errors import InvalidParameter, PayloadTooLarge
from headmap.settings import Settings

LONG_TEXT = 1 << 15
"""Bytes from which a text is always parsed by itself."""

MAX_DIGITS = 1000
"""Of one number. Reading one takes time in proportion to their square."""

MAX_NESTED_JSON = 1 << 20
"""Characters of what a request says in JSON of no fixed shape: a schema, all tools, all arguments of earlier calls."""

MAX_DETAIL = 2000
"""Characters of what an error says."""

MAX_SHOWN = 80
"""Characters of a value or of a name in an error."""

MAX_ERRORS = 8
"""Fields that one error document names."""

_PIECE = LONG_TEXT // 2
_ZEROS = b"0" * MAX_DIGITS
_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


@dataclass(frozen=True)
class Costs:
    """The bounds of one JSON body.

    values: the number of JSON values. members: the number of texts, objects, lists and member names, each of which
    takes a Python object and a check. plain_bytes: the bytes outside long texts, and separately the bytes of long texts
    that are not ASCII (base64 pictures are ASCII). text_bytes: the bytes of one text.
    """

    values: int
    members: int
    plain_bytes: int
    text_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Costs:
        """Bounds that allow 4096 messages, the longest prompt as token ids or text, and pictures in base64."""
        tokens = settings.max_prompt_tokens
        text = max(4 * 2**20, 16 * tokens)
        picture = settings.max_image_bytes * 3 // 2
        return cls(values=100_000 + tokens, members=32_768, plain_bytes=text, text_bytes=max(text, picture))


SMALL = Costs(values=1000, members=1000, plain_bytes=1 << 16, text_bytes=1 << 16)
"""Of bodies that hold a few fields."""


class JsonMeter:
    """Counts the values of a JSON body while it arrives, and notes the positions of its long texts.

    `long_texts`: for each text (first, end), the index of its first character and of its closing quote. The list may
    include texts shorter than LONG_TEXT bytes.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self.long_texts: list[tuple[int, int]] = []
        self._values = self._lists = self._quotes = 0
        self._seen = 0
        self._long_bytes = 0
        self._quote = 0  # the index of the last quote
        self._in_text = self._is_long = self._escapes = False

    def feed(self, whole: bytearray, *, ended: bool) -> None:
        """Read the new part of `whole`, the body so far. Raises PayloadTooLarge and InvalidParameter."""
        while len(whole) - self._seen >= _PIECE or (ended and self._seen < len(whole)):
            piece = whole[self._seen : self._seen + _PIECE]
            self._read(piece, self._seen)
            self._seen += len(piece)
            self._check()

    def _read(self, piece: bytearray, place: int) -> None:
        if self._escapes:  # a backslash ended the last piece
            piece[0] = 0x78
            self._escapes = False
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
            self._escapes = piece.endswith(b"\\")
        first = piece.find(b'"')
        if first < 0:
            if self._in_text:
                self._is_long = True
                self._long_bytes += len(piece)
            else:
                self._read_outside(piece)
            return
        if self._is_long:
            self.long_texts.append((self._quote + 1, place + first))
            self._is_long = False
        parts = piece.split(b'"')
        self._read_outside(b"".join(parts[int(self._in_text) :: 2]))
        self._quotes += len(parts) - 1
        self._in_text ^= (len(parts) - 1) % 2 == 1
        self._quote = place + piece.rfind(b'"')

    def _read_outside(self, piece: bytes | bytearray) -> None:
        lists = len(piece) - len(piece.translate(None, b"[{"))
        self._lists += lists
        self._values += lists + piece.count(b",")
        if len(piece) >= MAX_DIGITS and _ZEROS in piece.translate(_TO_ZERO):
            raise InvalidParameter(f"body: a number of {MAX_DIGITS} digits or more", param="body")

    def _check(self) -> None:
        for found, most, what in (
            (self._values, self._costs.values, "values"),
            (self._lists + self._quotes // 2, self._costs.members, "names, texts, lists and objects"),
            (self._seen - self._long_bytes, self._costs.plain_bytes, "bytes beside long texts"),
            (self._seen - self._quote if self._is_long else 0, self._costs.text_bytes, "bytes in one text"),
        ):
            if found > most:
                raise PayloadTooLarge(f"body: more than {most} {what}", param="body")


class Allowance:
    """The amount that one request may still spend of a cost that its parts share."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._left, self._what = most, most, what

    def spend(self, amount: int, field: str) -> None:
        """Spend `amount`. Raises PayloadTooLarge, which names `field`, if that exceeds the request's allowance."""
        self._left -= amount
        if self._left < 0:
            raise PayloadTooLarge(f"{field}: more than {self._most} {self._what}", param=field)


def characters(value: object, most: int = MAX_NESTED_JSON) -> int:
    """Estimate the length of a JSON value when written, in characters. Stops counting above `most`."""
    found, waiting = 0, [value]
    while waiting and found <= most:
        one = waiting.pop()
        found += 2
        if isinstance(one, str):
            found += len(one)
        elif isinstance(one, dict):
            found += sum(map(len, one))
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return found


def shown(value: object) -> str:
    """Write `value` for an error message: its Python form, cut at MAX_SHOWN characters, without extra work."""
    text = _written(value, MAX_SHOWN + 1, 4)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _written(value: object, most: int, depth: int) -> str:
    if isinstance(value, str | bytes | bytearray):
        return repr(value[:most])
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"a number of {value.bit_length()} bits"
    if not isinstance(value, list | tuple | dict) or not value:
        return repr(value)
    if not depth:
        return "..."
    parts: list[str] = []
    for item in islice(value.items() if isinstance(value, dict) else value, most):
        if isinstance(value, dict):
            name, one = item
            parts.append(f"{_written(name, most, 0)}: {_written(one, most, depth - 1)}")
        else:
            parts.append(_written(item, most, depth - 1))
        most -= len(parts[-1]) + 2
        if most <= 0:
            break
    inside = ", ".join(parts)
    return f"{{{inside}}}" if isinstance(value, dict) else f"[{inside}]"
