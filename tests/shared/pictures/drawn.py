"""Pictures drawn for the tests of decoding, and what tells whether they came out right."""

from __future__ import annotations

import numpy as np
from PIL import Image

from headmap.pictures.decode import decode_picture
from tests.shared.pictures.files import saved

SIZE = 48, 32
MAX_PIXELS = 250_000
ORIENTATION = 0x0112


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = decode_picture(data, "images.0", max_pixels=max_pixels, param="images.0")
    assert image.mode == "RGB"
    return image


def ink() -> Image.Image:
    """Black ink on white paper: the left half but for a margin."""
    page = Image.new("L", SIZE, 255)
    page.paste(0, (8, 8, 24, 24))
    return page


def looks_like_ink(image: Image.Image) -> bool:
    pixels = np.asarray(image).astype(int)
    wanted = np.asarray(ink())[..., None]
    # JPEG blurs the edges
    return image.size == SIZE and bool(np.percentile(abs(pixels - wanted), 95) < 40)


def clear_paper(mode: str) -> Image.Image:
    """The same ink on paper that is as black, and clear."""
    opaque = ink().point(lambda value: 255 - value)
    black = Image.new("L", SIZE, 0)
    if mode == "PA":
        paletted = black.convert("PA")
        paletted.putalpha(opaque)
        return paletted
    return Image.merge(mode, (*[black] * (len(mode) - 1), opaque))


def wide_ramp(mode: str, top: float, count: int = 256) -> Image.Image:
    values = np.linspace(0, top, count)
    if mode == "F":
        return Image.fromarray(values[None].astype(np.float32))
    if mode == "I":
        return Image.fromarray(values[None].astype(np.int32))
    image = Image.fromarray(values[None].astype(np.uint16))
    return image if mode == "I;16" else Image.frombytes("I;16B", image.size, values.astype(">u2").tobytes())


def marked() -> Image.Image:
    """A picture whose corners differ."""
    image = Image.new("RGB", SIZE, "white")
    image.paste((255, 0, 0), (0, 0, 16, 16))
    image.paste((0, 0, 255), (32, 0, 48, 16))
    image.paste((0, 255, 0), (0, 16, 16, 32))
    return image


# How a picture is stored so that its orientation turns it upright (EXIF 2.32, section 4.6.4)
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(form: str, orientation: int) -> bytes:
    """The marked picture, stored so that its orientation turns it upright."""
    stored = marked().transpose(STORED[orientation]) if orientation in STORED else marked()
    options: dict[str, object] = {"quality": 95, "subsampling": 0} if form == "JPEG" else {"lossless": True}
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    return saved(stored, form, exif=tag, **options)
