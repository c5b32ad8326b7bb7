"""Black ink on white paper, in every format, mode and kind of transparency, looks like it once decoded."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from PIL import Image, ImageCms

from tests.shared.pictures import files
from tests.shared.pictures.drawn import SIZE, clear_paper, decode, ink, looks_like_ink
from tests.shared.pictures.files import SHORT, saved


def lab(page: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return page.convert("RGB").point(ImageCms.buildTransform(*profiles, "RGB", "LAB"))


def of_mode(mode: str) -> Image.Image:
    page = ink()
    if mode == "LAB":
        return lab(page)
    if mode.startswith("I;16"):
        wide = Image.new(mode, SIZE, 65535)
        wide.paste(0, (8, 8, 24, 24))
        return wide
    if mode in ("I", "F"):
        return page.convert("I").point(lambda value: value * 257).convert(mode)
    return page.convert(mode)


OPAQUE = [
    *(("PNG", mode) for mode in ("1", "L", "P", "RGB", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")),
    *(("WEBP", mode) for mode in ("L", "RGB")),
    *(("GIF", mode) for mode in ("1", "L", "P", "RGB")),
    *(("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("TIFF", mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F")),
]


@pytest.mark.parametrize(("form", "mode"), OPAQUE)
def test_black_ink_on_white_paper_looks_like_it(form: str, mode: str) -> None:
    assert looks_like_ink(decode(saved(of_mode(mode), form)))


COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "group3", "group4")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressions_of_scanners_are_read(compression: str) -> None:
    mode = "1" if compression.startswith("group") else "RGB"
    assert looks_like_ink(decode(saved(of_mode(mode), "TIFF", compression=compression)))


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
        ("GIF", "RGBA", {}),
        ("TIFF", "LA", {}),
        ("TIFF", "PA", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ],
)
def test_black_ink_on_clear_paper_looks_like_ink_on_white(form: str, mode: str, options: dict[str, Any]) -> None:
    assert looks_like_ink(decode(saved(clear_paper(mode), form, **options)))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_premultiplied_transparency_too(mode: str) -> None:
    """A TIFF whose ExtraSamples say so (TIFF 6.0, section 18)."""
    data = saved(clear_paper(mode), "TIFF")
    entry = struct.pack("<HHIH", 338, SHORT, 1, 2)
    assert entry in data
    assert looks_like_ink(decode(data.replace(entry, struct.pack("<HHIH", 338, SHORT, 1, 1))))


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
def test_half_transparent_ink_is_grey(alpha: int) -> None:
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, alpha))
    assert abs(decode(saved(picture, "PNG")).getpixel((1, 1))[0] - (255 - alpha)) <= 1  # type: ignore[index]


@pytest.mark.parametrize("table", [0, bytes([0, 255])], ids=["index", "table"])
def test_a_palette_may_have_clear_colours(table: int | bytes) -> None:
    page = ink().point(lambda value: int(value == 0)).convert("P")
    page.putpalette([0, 0, 0] * 256)
    assert looks_like_ink(decode(saved(page, "PNG", transparency=table)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colour", [files.GREY, files.COLOUR])
def test_a_clear_colour_counts_in_the_depth_of_its_file(depth: int, colour: int) -> None:
    if colour == files.COLOUR and depth < 8:
        return  # PNG has no such pictures
    # The ink is the darkest value, the paper the next one, which looks as black where there are many.
    clear = 1 if depth < 16 else 0x0100
    samples = 3 if colour == files.COLOUR else 1
    shown = ink()
    rows = [
        [0 if shown.getpixel((x, y)) == 0 else clear for x in range(SIZE[0]) for _ in range(samples)]
        for y in range(SIZE[1])
    ]
    data = files.png(rows, depth, colour=colour, clear=[clear] * samples)
    assert looks_like_ink(decode(data))
