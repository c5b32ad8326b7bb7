"""Decode a picture file's bytes to upright RGB. Serving, datasets and the command line all use this module.

Formats are detected by content and must be on an allow list. Pixels and parts are counted before decoding. Transparent
areas become white, and grey of more than eight bits is scaled. This module does not import torch or numpy.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from headmap.errors import ImageTooLarge, InvalidImage
from headmap.pictures.parts import too_many_parts, too_many_pixels_in_tiles

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""A camera's MPO is a JPEG followed by other pictures, which are ignored."""

TOO_MUCH_MEMORY = "decoding it takes more memory than is allowed"

_JPEG = b"\xff\xd8\xff"
_FIRST_BYTES = 8

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # by tag type: BYTE, SHORT, LONG

# Tags of TIFF 6.0, and the compressions that scanners and libraries write. Decoders of others are rarely tested.
_BITS, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0
_COMPRESSIONS = {
    "raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "tiff_ccitt", "group3", "group4"
}  # fmt: skip

_RLE = (1, 2)  # BMP compressions
_MAX_RLE_PIXELS = 4_000_000  # Pillow decodes them in Python, which takes a second for this number


def decode_picture(data: bytes, where: str, *, max_pixels: int, param: str | None = None) -> Image.Image:
    """Decode one picture as upright RGB by its EXIF orientation. Raises the errors of `open_picture` and `decode`."""
    return open_picture(data, where, max_pixels=max_pixels, param=param).decode()


def open_picture(data: bytes, where: str, *, max_pixels: int, param: str | None = None) -> OpenedPicture:
    """Read a picture's header.

    `where` begins each error's text, and `param` is the field that the error names. Raises ImageTooLarge if the header
    gives more than `max_pixels` or the file has too many parts. Raises InvalidImage for unsupported formats, several
    frames or pages, and broken headers.
    """
    with _refusals(data, where, param):
        if (many := too_many_parts(data)) is not None:
            raise ImageTooLarge(f"{where}: has {many}", param=param)
        opened = _open(data)
        _check_header(opened, where, max_pixels, param)
        return OpenedPicture(data, where, param, opened)


@dataclass(frozen=True)
class OpenedPicture:
    """A picture with a valid header that is not decoded yet."""

    data: bytes
    where: str
    param: str | None
    opened: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in the file. A rotation may swap them."""
        return self.opened.size

    def decode(self) -> Image.Image:
        """Decode the picture to upright RGB.

        Raises ImageTooLarge if memory does not suffice, and InvalidImage for a broken or truncated file.
        """
        with _refusals(self.data, self.where, self.param):
            self.opened.load()
            turn = _turn(self.opened)
            image = _on_white(_eight_bits(_with_clear_colour(self.opened, self.data)))
            return image if turn is None else image.transpose(turn)


@contextmanager
def _refusals(data: bytes, where: str, param: str | None) -> Iterator[None]:
    try:
        yield
    except (InvalidImage, ImageTooLarge):
        raise
    except MemoryError as error:
        raise ImageTooLarge(f"{where}: {TOO_MUCH_MEMORY}", param=param) from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{where}: {error}", param=param) from error
    except UnidentifiedImageError as error:
        raise InvalidImage(
            f"{where}: is not a readable {', '.join(FORMATS)} picture; it begins with {data[:_FIRST_BYTES]!r}",
            param=param,
        ) from error
    except Exception as error:  # decoders fail in many ways on hostile bytes; every failure means a broken picture
        raise InvalidImage(f"{where}: the picture is broken ({error})", param=param) from error


def _open(data: bytes) -> Image.Image:
    # Image.open would follow an MPO's offsets to its other pictures.
    return JpegImageFile(BytesIO(data)) if data.startswith(_JPEG) else Image.open(BytesIO(data), formats=FORMATS)


def _check_header(opened: Image.Image, where: str, max_pixels: int, param: str | None) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{where}: {width} x {height} pixels; at most {max_pixels} are allowed", param=param)
    if width * height == 0:
        raise InvalidImage(f"{where}: {width} x {height} pixels; at least one is needed", param=param)
    # Frames are not counted, because a GIF does not store their number and a TIFF may have many pages.
    if getattr(opened, "is_animated", False):
        raise InvalidImage(f"{where}: is animated or has several pages; one frame is needed", param=param)
    if opened.format == "BMP" and opened.info["compression"] in _RLE and width * height > _MAX_RLE_PIXELS:
        raise ImageTooLarge(
            f"{where}: {width} x {height} pixels; a run-length encoded BMP may have {_MAX_RLE_PIXELS}", param=param
        )
    if isinstance(opened, TiffImageFile):
        _check_tiff(opened, where, max_pixels, param)


def _check_tiff(opened: TiffImageFile, where: str, max_pixels: int, param: str | None) -> None:
    compression = opened.info["compression"]
    if compression not in _COMPRESSIONS:
        raise InvalidImage(f"{where}: TIFF compressed as {compression!r} is not read", param=param)
    if (many := too_many_pixels_in_tiles(opened, max_pixels)) is not None:
        raise ImageTooLarge(f"{where}: {many}", param=param)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to rotate a loaded picture. Pillow has already rotated a TIFF and removed its tag."""
    orientation = _exif_orientation(image.info.get("exif", b""))
    if orientation is None:
        with suppress(Exception):  # XMP, and EXIF written as text; if they are broken the picture is not rotated
            orientation = image.getexif().get(_ORIENTATION)
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation in the first directory (EXIF 2.32, section 4.6). Pillow drops all tags after a broken tag."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    with suppress(struct.error):  # truncated
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, place)
            if tag == _ORIENTATION and kind in _INTEGERS:
                return int(struct.unpack_from(order + _INTEGERS[kind], tiff, place + 8)[0])
    return None


def _with_clear_colour(image: Image.Image, data: bytes) -> Image.Image:
    """Convert a PNG's transparent colour (its tRNS chunk, in the file's bit depth) to Pillow's eight bits."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and clear is not None:
        depth = data[24]  # PNG, section 11.2.1: IHDR comes first
        if image.mode == "L":
            image.info["transparency"] = clear % 2**depth * 255 // (2**depth - 1)
        elif image.mode == "RGB":
            image.info["transparency"] = tuple(value >> 8 if depth == 16 else value & 255 for value in clear)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert deeper grey to L, or to LA if one value is transparent. Other pictures do not change."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    first, last = _range(image)
    scale = 255 / (last - first) if last > first else 1.0
    wide = image.convert("I") if image.mode != "F" else image  # no other mode of integers can be scaled
    grey = wide.point(lambda value: value * scale + (0.5 - first * scale)).convert("L")
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = ImageChops.invert(grey)  # Pillow itself inverts eight bits and fewer
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(wide.point([255 * (value != clear) for value in range(65536)], "L"))
    return grey


def _range(image: Image.Image) -> tuple[float, float]:
    """The values of black and white."""
    if image.mode.startswith("I;16"):
        return 0, 2 ** image.tag_v2.get(_BITS, (16,))[0] - 1 if isinstance(image, TiffImageFile) else 65535
    low, high = image.getextrema()
    if not (isinstance(low, int | float) and isinstance(high, int | float) and math.isfinite(low + high)):
        raise ValueError("its values are not finite numbers")
    # The file gives no range, so take the smallest usual range that fits. Resampled floats may slightly exceed theirs.
    for top in (1, 255, 65535) if image.mode == "F" else (255, 65535):
        if low >= 0 and high < top + 1:
            return 0, top
    return low, high


def _on_white(image: Image.Image) -> Image.Image:
    """Convert any picture of eight bits or fewer to RGB on white."""
    if image.mode == "LAB":
        return _from_lab(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(layer, mask=layer)
    return paper


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return image.point(ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
