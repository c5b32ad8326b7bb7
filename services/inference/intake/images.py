"""From what a client sends to a picture: base64 and data URLs, formats allow-listed, pixels counted before decoding."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from headmap.errors import ImageTooLarge, InvalidImage

FORMATS = ("PNG", "JPEG", "WEBP")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_DATA = re.compile(r"data:[^,]{0,256};base64,", re.IGNORECASE)
_WHITESPACE = b"\t\n\r "
# characters of base64 that a URL may have escaped
_ESCAPES = {b"%2b": b"+", b"%2f": b"/", b"%3d": b"=", b"%09": b"", b"%0a": b"", b"%0d": b"", b"%20": b""}


@dataclass(frozen=True)
class Limits:
    """Limits of one picture: bytes of its file, and pixels as its header tells them."""

    max_image_bytes: int
    max_image_pixels: int


@dataclass(frozen=True)
class ImageSource:
    """A picture as it came: `text` is an http(s) URL, a data: URL or base64; `field` says where it stood."""

    text: str
    field: str

    @property
    def is_url(self) -> bool:
        return self.text[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of a picture file, not yet looked at."""

    data: bytes
    field: str


def read_inline(source: ImageSource, limits: Limits) -> EncodedImage:
    """The bytes of a data: URL or of bare base64.

    Raises InvalidImage for anything else, paths and other schemes included, and ImageTooLarge.
    """
    text, field = source.text, source.field
    if (match := _DATA.match(text)) is not None:
        payload = text[match.end() :]
    elif _SCHEME.match(text):
        raise InvalidImage(
            f"{field}: must be an http(s) URL, a base64 data: URL or base64, got {_start(text)}", param=field
        )
    else:
        payload = text
    # Four characters hold three bytes; the check comes before the copy.
    if len(payload) * 3 // 4 > limits.max_image_bytes * 1.05 + 16:
        raise too_many_bytes(field, limits.max_image_bytes)
    try:
        data = _from_base64(payload.encode("utf-8", "replace"))
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"{field}: not base64 ({error}), got {_start(text)}", param=field) from error
    if len(data) > limits.max_image_bytes:
        raise too_many_bytes(field, limits.max_image_bytes)
    if not data:
        raise InvalidImage(f"{field}: is empty", param=field)
    return EncodedImage(data, field)


def decode_image(image: EncodedImage, limits: Limits) -> Image.Image:
    """Decode one picture, upright by its EXIF orientation, as RGB.

    Raises ImageTooLarge where the header says more pixels than allowed, before any is decoded, and InvalidImage for
    other formats, animations and files that are broken or cut short.
    """
    field = image.field
    try:
        opened = Image.open(BytesIO(image.data), formats=FORMATS)
        _check_header(opened, field, limits)
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        return opened if opened.mode == "RGB" else opened.convert("RGB")
    except (InvalidImage, ImageTooLarge, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{field}: {error}", param=field) from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"{field}: is no {', '.join(FORMATS)} picture", param=field) from error
    except Exception as error:  # decoders fail in many ways on hostile bytes, and each of them means a broken picture
        raise InvalidImage(f"{field}: the picture is broken ({error})", param=field) from error


def _from_base64(encoded: bytes) -> bytes:
    if b"%" in encoded:
        for escape, plain in _ESCAPES.items():
            encoded = encoded.replace(escape, plain).replace(escape.upper(), plain)
    return base64.b64decode(encoded.translate(None, _WHITESPACE), validate=True)


def _check_header(opened: Image.Image, field: str, limits: Limits) -> None:
    if opened.width * opened.height > limits.max_image_pixels:
        raise ImageTooLarge(
            f"{field}: {opened.width} x {opened.height} pixels; at most {limits.max_image_pixels} are allowed",
            param=field,
        )
    if getattr(opened, "n_frames", 1) > 1:
        raise InvalidImage(f"{field}: is animated; one frame is needed", param=field)


def too_many_bytes(field: str, limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"{field}: more than {limit} bytes", param=field)


def _start(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
