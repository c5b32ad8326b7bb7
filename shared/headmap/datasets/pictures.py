"""From a picture file's bytes to pixels: formats allow-listed, size told by the header before anything is decoded."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from headmap.errors import InvalidDataset

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000
"""Of one picture, where the caller sets no bound."""


def decode_picture(
    data: bytes, where: str, *, max_pixels: int = MAX_PIXELS, size: tuple[int, int] | None = None
) -> Image.Image:
    """Decode one picture as RGB. The EXIF orientation is ignored, since boxes count stored pixels.

    `size`: the (width, height) it must have. Raises InvalidDataset, which begins with `where`, for other sizes and
    formats, more than `max_pixels`, animations, and files that are broken or cut short.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                raise InvalidDataset(
                    f"{where}: {opened.width} x {opened.height} pixels; at most {max_pixels} are allowed"
                )
            if size is not None and opened.size != size:
                raise InvalidDataset(f"{where}: fields 'width' and 'height' say {size}, the picture has {opened.size}")
            if getattr(opened, "n_frames", 1) > 1:
                raise InvalidDataset(f"{where}: is animated; one frame is needed")
            return opened.convert("RGB")
    except InvalidDataset:
        raise
    except UnidentifiedImageError as error:
        raise InvalidDataset(f"{where}: is no {', '.join(FORMATS)} picture") from error
    except Exception as error:  # decoders fail in many ways on hostile bytes, and each of them means a broken picture
        raise InvalidDataset(f"{where}: the picture is broken ({error})") from error
