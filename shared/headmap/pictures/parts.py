"""Count the parts of a picture file before decoding, because each part costs time even if it has few bytes.

Decoders process a JPEG's scans one after another, and each scan covers the whole picture. Pillow reads segments, chunks
and blocks in Python. It appends some of them to a text, which is copied each time. This module does not report broken
files; the decoder does.
"""

from __future__ import annotations

import re
import struct

from PIL.TiffImagePlugin import TiffImageFile

MAX_SCANS = 32
"""Scans of a JPEG. Usual progressive files have 10, or 18 with four colours. A scan of 40 megapixels takes 50 ms."""

MAX_SEGMENTS = 4096
"""Segments of a JPEG. Colour profiles and EXIF take up to 255 each."""

MAX_CHUNKS = 65_536
"""Chunks of a PNG. A file of `max_image_bytes` with 4 KiB per chunk has 5,000."""

MAX_BLOCKS = 131_072
"""Blocks of a GIF. Well-written files use blocks of 255 bytes."""

MAX_STRIPS = 131_072
"""Strips or tiles of a TIFF."""

_PNG = b"\x89PNG\r\n\x1a\n"
_GIF = b"GIF8"
_JPEG = b"\xff\xd8"

# ITU T.81, B.1.1: markers without a length, and bytes after 0xFF in a scan's data that are not markers
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_EXTENSION, _FRAME, _TRAILER = 0x21, 0x2C, 0x3B
# TIFF 6.0, section 2, and BigTIFF: the formats of the first directory's offset, its length, and an entry
_DIRECTORIES = {42: (4, "I", "H", "HHI4x"), 43: (8, "Q", "Q", "HHQ8x")}
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_PIECES = frozenset([273, 279, 324, 325])  # offsets and byte counts of strips and tiles


def too_many_parts(data: bytes) -> str | None:
    """Describe the parts that exceed their limit, with the limit, or return None."""
    for beginning, count in ((_JPEG, _of_jpeg), (_PNG, _of_png), (_GIF, _of_gif), (b"II", _of_tiff), (b"MM", _of_tiff)):
        if data.startswith(beginning):
            return count(data)
    return None


def too_many_pixels_in_tiles(opened: TiffImageFile, max_pixels: int) -> str | None:
    """Describe TIFF tiles that exceed the limit, or return None. A tile is decoded whole, even if mostly unused."""
    width, length = opened.tag_v2.get(_TILE_WIDTH), opened.tag_v2.get(_TILE_LENGTH)
    if width is None or length is None:
        return None
    count = -(-opened.width // max(1, width)) * -(-opened.height // max(1, length))
    if width * length > max_pixels or count * width * length > 2 * max_pixels:  # edge tiles are not full
        return f"{count} tiles of {width} x {length} pixels; at most {max_pixels} are allowed"
    return None


def _of_jpeg(data: bytes) -> str | None:
    place, segments, scans = 2, 0, 0
    while (found := _MARKER.search(data, place)) is not None:
        kind, place = data[found.start() + 1], found.end()
        if kind == _END_OF_IMAGE:
            break
        if kind in _ALONE:
            continue
        segments, scans = segments + 1, scans + (kind == _START_OF_SCAN)
        if scans > MAX_SCANS:
            return f"more than {MAX_SCANS} scans"
        if segments > MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS} segments"
        place += int.from_bytes(data[place : place + 2], "big")
    return None


def _of_png(data: bytes) -> str | None:
    place, chunks = len(_PNG), 0
    while place + 8 <= len(data) and data[place + 4 : place + 8] != b"IEND":
        chunks += 1
        if chunks > MAX_CHUNKS:
            return f"more than {MAX_CHUNKS} chunks"
        place += 12 + struct.unpack_from(">I", data, place)[0]
    return None


def _of_gif(data: bytes) -> str | None:
    """Count blocks up to the second frame. `decode.py` rejects a file with several frames."""
    if len(data) < 13:
        return None
    place, blocks, frames, in_blocks = 13 + _colours(data[10]), 0, 0, False
    while place + 10 < len(data) and frames < 2:
        blocks += 1
        if blocks > MAX_BLOCKS:
            return f"more than {MAX_BLOCKS} blocks"
        kind = data[place]
        if in_blocks:
            in_blocks = kind > 0  # the size of a block, or the end of the blocks
            place += 1 + kind
        elif kind == _EXTENSION:
            place, in_blocks = place + 2, True
        elif kind == _FRAME:
            place, in_blocks, frames = place + 11 + _colours(data[place + 9]), True, frames + 1
        elif kind == _TRAILER:
            break
        else:
            place += 1  # Pillow skips unknown bytes
    return None


def _of_tiff(data: bytes) -> str | None:
    order = "<" if data.startswith(b"I") else ">"
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        at, place_form, length_form, entry = _DIRECTORIES[version]
        (place,) = struct.unpack_from(f"{order}{place_form}", data, at)
        (length,) = struct.unpack_from(f"{order}{length_form}", data, place)
        place += struct.calcsize(f"{order}{length_form}")
        size = struct.calcsize(f"{order}{entry}")
        for start in range(place, place + size * min(length, 65_535), size):
            tag, _, count = struct.unpack_from(f"{order}{entry}", data, start)
            if tag in _PIECES and count > MAX_STRIPS:
                return f"more than {MAX_STRIPS} strips or tiles"
    except (struct.error, KeyError):
        return None
    return None


def _colours(flags: int) -> int:
    """The size of a colour table in bytes (GIF89a, sections 18 and 20)."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
