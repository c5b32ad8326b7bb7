"""Files of a few bytes with thousands of parts are refused before anything is decoded; usual files are not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from headmap.errors import ImageTooLarge, InvalidImage
from headmap.pictures import parts
from headmap.pictures.decode import decode_picture, open_picture
from headmap.pictures.parts import too_many_parts
from tests.shared.pictures import files
from tests.shared.pictures.files import saved

MAX_PIXELS = 1_000_000


def page(mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((64, 48), 80).convert(mode)


def jpeg_of_scans(count: int, *, fill: bytes = b"") -> bytes:
    """Progressive, its last scan again and again."""
    data = saved(page("L"), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + (fill + last) * count + data[-2:]


def jpeg_of_segments(segment: bytes, count: int) -> bytes:
    data = saved(page(), "JPEG")
    return data[:2] + segment * count + data[2:]


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_chunks(kind: bytes, count: int) -> bytes:
    data = saved(page(), "PNG")
    return data[:33] + chunk(kind) * count + data[33:]


def gif_of_blocks(block: bytes, count: int) -> bytes:
    data = saved(page("L"), "GIF")
    start = 13 + 3 * 256  # behind its colours
    return data[:start] + block * count + data[start:]


def tiff_of_strips(count: int, *, big: bool = False) -> bytes:
    """A directory that tells of so many strips, of a row each."""
    form, head = ("<HHQQ", b"II\x2b\0\x08\0\0\0" + struct.pack("<QQ", 16, 6)) if big else (
        "<HHII", b"II*\0" + struct.pack("<IH", 8, 6))  # fmt: skip
    entries = [(256, 4, 1, 8), (257, 4, 1, count), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, count, 0), (278, 4, 1, 1)]
    return head + b"".join(struct.pack(form, *entry) for entry in entries) + bytes(5000)


def tiff_of_tiles(width: int, height: int, tile: tuple[int, int]) -> bytes:
    return files.tiff({256: width, 257: height, 258: 8, 259: 1, 262: 1, 322: tile[0], 323: tile[1]}, bytes(64))


MANY: dict[str, Callable[[], bytes]] = {
    "scans": lambda: jpeg_of_scans(40),
    "thousands of scans": lambda: jpeg_of_scans(5000),
    "scans behind fill bytes": lambda: jpeg_of_scans(40, fill=b"\xff\xff\xff"),
    "comments of a JPEG": lambda: jpeg_of_segments(b"\xff\xfe\x00\x02", 5000),
    "EXIF in pieces": lambda: jpeg_of_segments(b"\xff\xe1\x00\x09Exif\0\0x", 5000),
    "empty IDAT": lambda: png_of_chunks(b"IDAT", 70_000),
    "unknown chunks": lambda: png_of_chunks(b"abCd", 70_000),
    "comments of a GIF": lambda: gif_of_blocks(b"\x21\xfe\x01x\x00", 70_000),
    "blocks of an extension": lambda: gif_of_blocks(b"\x21\xff" + b"\x01x" * 140_000 + b"\x00", 1),
    "bytes between blocks": lambda: gif_of_blocks(b"\x00", 140_000),
    "strips": lambda: tiff_of_strips(2**31),
    "strips of a BigTIFF": lambda: tiff_of_strips(2**40, big=True),
    "tiles much longer than the picture": lambda: tiff_of_tiles(500_000, 1, (16, 60_000)),
    "a tile much larger than the picture": lambda: tiff_of_tiles(16, 16, (2048, 2048)),
}


@pytest.mark.parametrize("name", MANY)
def test_files_of_many_parts_are_refused_before_they_are_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*given: object) -> None:
        raise RuntimeError("a decoder ran")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    with pytest.raises(ImageTooLarge, match=r"^images\.0: .*(more than|at most) \d+"):
        open_picture(MANY[name](), "images.0", max_pixels=MAX_PIXELS)


def with_thumbnail() -> bytes:
    """EXIF that holds a progressive JPEG, whose scans are not the picture's; and what a camera appends."""
    inner = jpeg_of_scans(20)
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + inner
    own = saved(page(), "JPEG", progressive=True)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return own[:2] + segment + own[2:] + inner * 3


USUAL: dict[str, Callable[[], bytes]] = {
    "progressive": lambda: saved(page(), "JPEG", progressive=True),
    "progressive of four colours": lambda: saved(page("CMYK"), "JPEG", progressive=True),
    "restart markers": lambda: saved(page(), "JPEG", restart_marker_blocks=1),
    "a large colour profile": lambda: saved(page(), "JPEG", icc_profile=bytes(255 * 65_519)),
    "a thumbnail": with_thumbnail,
    "PNG": lambda: saved(page(), "PNG"),
    "interlaced GIF": lambda: saved(page("L"), "GIF", interlace=1),
    "GIF with what lies behind it": lambda: saved(page("L"), "GIF") + bytes(200_000),
    "tiles": lambda: saved(page(), "TIFF", tiffinfo={322: 16, 323: 16}),
    "strips of a row": lambda: saved(page(), "TIFF", tiffinfo={278: 1}),
    "BigTIFF": lambda: saved(page(), "TIFF", big_tiff=True),
    "WebP": lambda: saved(page(), "WEBP"),
    "BMP": lambda: saved(page(), "BMP"),
}


@pytest.mark.parametrize("name", USUAL)
def test_usual_files_are_read(name: str) -> None:
    assert decode_picture(USUAL[name](), "images.0", max_pixels=MAX_PIXELS).size == (64, 48)


@given(st.integers(0, 3), st.integers(0, 40), st.binary(max_size=8))
@settings(max_examples=40, deadline=None)
def test_scans_are_counted_as_the_decoder_meets_them(fill: int, count: int, noise: bytes) -> None:
    """Whatever stands in a segment before them."""
    data = jpeg_of_scans(count, fill=b"\xff" * fill)
    noise = b"\xff\xda" * 50 + noise
    data = data[:2] + b"\xff\xe5" + struct.pack(">H", len(noise) + 2) + noise + data[2:]
    own = 6  # of a grey one
    assert (too_many_parts(data) is not None) == (own + count > parts.MAX_SCANS)


@given(st.sampled_from(sorted(USUAL)), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=20))
@settings(max_examples=150, deadline=None)
def test_mutated_bytes_are_counted_or_left_to_the_decoder(name: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(USUAL[name]()[:4000])
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(InvalidImage, ImageTooLarge):
        open_picture(bytes(data), "images.0", max_pixels=MAX_PIXELS)


def test_the_bounds_are_named_where_pictures_are_read() -> None:
    file = BytesIO(jpeg_of_scans(40))
    with pytest.raises(ImageTooLarge, match=f"more than {parts.MAX_SCANS} scans") as caught:
        decode_picture(file.getvalue(), "images.0", max_pixels=MAX_PIXELS, param="images.0")
    assert caught.value.param == "images.0"
