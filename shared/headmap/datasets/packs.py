"""Pages of a dataset in packs, each a blob of some megabytes: thousands of small pictures would be as many requests.

A pack is the pages' records and pictures in turn, each after its length in 8 bytes, big endian. So the packs of a
dataset, one after another, are the bytes whose SHA-256 is its checksum (`headmap.datasets.checking`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from headmap.errors import DatasetUnavailable

PACK_BYTES = 4 * 2**20
"""A pack ends with the page that takes it beyond this."""
_LENGTH = 8


@dataclass(frozen=True)
class Pack:
    """Pages `first` to `first + pages - 1` of a dataset."""

    first: int
    pages: int
    data: bytes


def framed(record: bytes, picture: bytes) -> Iterator[bytes]:
    """The bytes of a page in a pack, in parts."""
    for part in (record, picture):
        yield len(part).to_bytes(_LENGTH, "big")
        yield part


def packed(rows: Iterable[tuple[str, bytes]], *, first: int = 0) -> Iterator[Pack]:
    """Put pages into packs as they come. `rows`: records as JSON and picture files, from page `first` on."""
    parts: list[bytes] = []
    held = pages = 0
    for record, picture in rows:
        parts += framed(record.encode(), picture)
        pages += 1
        held += sum(map(len, parts[-4:]))
        if held >= PACK_BYTES:
            yield Pack(first, pages, b"".join(parts))
            first, parts, held, pages = first + pages, [], 0, 0
    if parts:
        yield Pack(first, pages, b"".join(parts))


def unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The pages of a pack: records as JSON, and picture files. Raises DatasetUnavailable for what is no pack."""
    parts = list(_parts(data))
    for record, picture in zip(parts[::2], parts[1::2], strict=True):
        yield bytes(record).decode(), bytes(picture)


def page_of(data: bytes, number: int) -> tuple[str, bytes]:
    """Page `number` of a pack, from 0. Raises DatasetUnavailable if it has none."""
    parts = list(_parts(data))
    if 2 * number + 1 >= len(parts):
        raise DatasetUnavailable(f"its pack has {len(parts) // 2} pages, and no page {number}")
    return bytes(parts[2 * number]).decode(), bytes(parts[2 * number + 1])


def _parts(data: bytes) -> Iterator[memoryview]:
    view, place, number = memoryview(data), 0, 0
    while place < len(view):
        start = place + _LENGTH
        place = start + int.from_bytes(view[place:start], "big")
        if place > len(view):
            raise DatasetUnavailable("its pack is cut short")
        yield view[start:place]
        number += 1
    if number % 2:
        raise DatasetUnavailable("its pack is cut short")
