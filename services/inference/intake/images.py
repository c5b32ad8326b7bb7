"""From a client's text to the bytes of a picture file: base64 and data: URLs, as clients really write them."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from headmap.errors import ImageTooLarge, InvalidImage

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# The media type may be missing or wrong, since the bytes tell the format.
_DATA = re.compile(r"\s{0,64}data:([^,]{0,1024}),", re.IGNORECASE)
_LONGEST_HEAD = 1100
_STEP = 1 << 18
_WHITESPACE = b"\t\n\r "
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# characters of base64 that a URL may have escaped
_ESCAPES = {b"%2b": b"+", b"%2f": b"/", b"%3d": b"=", b"%09": b"", b"%0a": b"", b"%0d": b"", b"%20": b""}


@dataclass(frozen=True)
class Limits:
    """Limits of one picture: bytes of its file, and pixels by its header."""

    max_image_bytes: int
    max_image_pixels: int


@dataclass(frozen=True)
class ImageSource:
    """A picture as the client sent it: `text` is an http(s) URL, a data: URL or base64; `field` is its place.

    `number`: its number among the request's pictures, from 1, if `field` does not tell.
    """

    text: str
    field: str
    number: int | None = None

    @property
    def is_url(self) -> bool:
        return self.text[:8].lower().startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        return name_of(self.field, self.number)


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of a picture file, still unchecked; `field` and `number` are the source's."""

    data: bytes
    field: str
    number: int | None = None

    @property
    def name(self) -> str:
        return name_of(self.field, self.number)


def read_inline(source: ImageSource, limits: Limits) -> EncodedImage:
    """The bytes of a data: URL or of bare base64.

    Base64 may have line breaks, the alphabet of URLs and no padding; a data: URL without `;base64` holds escaped bytes
    (RFC 2397). Raises InvalidImage for anything else, other schemes included, and ImageTooLarge.
    """
    check_length(source, limits.max_image_bytes)  # before anything is copied
    text = source.text.lstrip()
    match, escaped = _head(text)
    if match is None and _SCHEME.match(text):
        raise InvalidImage(
            f"{source.name}: must be an http(s) URL, a data: URL or base64, got {_start(text)}", param=source.field
        )
    first = 0 if match is None else match.end()
    try:
        data = _unescaped(text, first) if escaped else _from_base64(text[first:].encode("utf-8", "replace"))
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"{source.name}: not base64 ({error}), got {_start(text)}", param=source.field) from error
    if len(data) > limits.max_image_bytes:
        raise too_many_bytes(source, limits.max_image_bytes)
    if not data:
        raise InvalidImage(f"{source.name}: is empty", param=source.field)
    return EncodedImage(data, source.field, source.number)


def check_length(source: ImageSource, max_image_bytes: int) -> None:
    """Raises ImageTooLarge for a text that holds more bytes, told by its length alone; blank space counts a little."""
    _, escaped = _head(source.text)
    # Four characters of base64 hold three bytes, three escaped ones a byte.
    fewest = len(source.text) // 3 if escaped else len(source.text) * 3 // 4
    if not source.is_url and fewest > max_image_bytes * 1.05 + _LONGEST_HEAD:
        raise too_many_bytes(source, max_image_bytes)


def _head(text: str) -> tuple[re.Match[str] | None, bool]:
    """What a data: URL has before its bytes, and whether these are escaped (RFC 2397) and not base64."""
    match = _DATA.match(text)
    if match is None:
        return None, False
    return match, "base64" not in (parameter.strip().lower() for parameter in match[1].split(";"))


def _unescaped(text: str, first: int) -> bytes:
    """In steps, each of which begins at an escape: urllib's function takes 40 bytes for each escape."""
    data = bytearray()
    while first < len(text):
        cut = text.find("%", first + _STEP)
        cut = len(text) if cut < 0 else cut
        data += unquote_to_bytes(text[first:cut])
        first = cut
    return bytes(data)


def _from_base64(encoded: bytes) -> bytes:
    if b"%" in encoded:
        for escape, plain in _ESCAPES.items():
            encoded = encoded.replace(escape, plain).replace(escape.upper(), plain)
    bare = encoded.translate(_FROM_URL_SAFE, _WHITESPACE).rstrip(b"=")
    return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)


def too_many_bytes(source: ImageSource, limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"{source.name}: more than {limit} bytes", param=source.field)


def name_of(field: str, number: int | None) -> str:
    """The name of a picture in errors."""
    return field if number is None else f"picture {number} ({field})"


def _start(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
