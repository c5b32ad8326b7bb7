"""Picture files made by hand, of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO

from PIL import Image

GREY, COLOUR = 0, 2
SHORT, LONG = 3, 4


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(
    rows: Sequence[Sequence[int]],
    depth: int,
    *,
    colour: int = GREY,
    clear: Sequence[int] = (),
    width: int | None = None,
) -> bytes:
    """A PNG of samples of `depth` bits, three a pixel where `colour` says so, and of the one colour that is clear."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = width or len(rows[0]) // (3 if colour == COLOUR else 1)
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + packed(row, depth) for row in rows)
    key = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    data = chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def packed(row: Sequence[int], depth: int) -> bytes:
    """Samples side by side, the first in the highest bits."""
    bits = "".join(f"{value:0{depth}b}" for value in row)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def tiff(tags: Mapping[int, int], strip: bytes = b"", *, following: int = 0) -> bytes:
    """A little-endian TIFF: `tags` as LONG, and `strip` as its only strip, or tile where tags tell its size."""
    places, sizes = (324, 325) if 322 in tags else (273, 279)
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = sorted({**tags, places: start, sizes: len(strip)}.items())
    table = b"".join(struct.pack("<HHII", tag, LONG, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", following)
    return head + strip


def exif(*entries: tuple[int, int, int, int], order: str = "<", start: int = 8) -> bytes:
    """A directory of (tag, type, count, value or offset), as JPEG and PNG hold it."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", start)
    table = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == SHORT else struct.pack(f"{order}I", value))
        for tag, kind, count, value in entries
    )
    return b"Exif\0\0" + head + struct.pack(f"{order}H", len(entries)) + table + bytes(4)
