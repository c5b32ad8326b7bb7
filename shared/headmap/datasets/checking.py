"""A user's own pages, checked in full: every member, field and pixel. Knows no registry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from headmap.datasets.archive import Members, open_archive, too_large
from headmap.datasets.packs import framed
from headmap.datasets.pictures import page_picture
from headmap.datasets.records import INDEX_FILE, PageRecord, read_records
from headmap.errors import InvalidDataset

MAX_INDEX_BYTES = 64 * 2**20
MAX_PIXELS_IN_ALL = 20_000_000_000
"""Of all pictures together: 10,000 of two megapixels. Decoding them takes a core some minutes."""


class UploadLimits(Protocol):
    """The limits of an upload. The settings have these fields."""

    @property
    def max_dataset_bytes(self) -> int: ...
    @property
    def max_image_bytes(self) -> int: ...
    @property
    def max_image_pixels(self) -> int: ...


@dataclass(frozen=True)
class Upload:
    """A set of pages that has been checked. `checksum` is the same for the same pages in any container."""

    pages: int
    words: int
    questions: int
    size: int
    """Bytes of pictures and records."""
    checksum: str
    rows: Callable[[], Iterator[tuple[str, bytes]]]
    """Each page's record as JSON and its picture file, in the index's order; may be called again."""


@contextmanager
def check_archive(file: BinaryIO, limits: UploadLimits) -> Iterator[Upload]:
    """Read every member, every field and every pixel of an archive.

    It holds `pages.jsonl` and the pictures that it names, at its top or all in one folder, and nothing else. Raises
    InvalidDataset, naming the member, line and field at fault, and DatasetTooLarge.
    """
    with open_archive(file, max_bytes=limits.max_dataset_bytes) as members:
        yield _check(members, limits)


def check_folder(folder: Path, limits: UploadLimits) -> Upload:
    """Check a folder on this machine like an archive. The folder may contain other files."""
    index = folder / INDEX_FILE
    if not index.is_file():
        raise InvalidDataset(f"{index}: no such file")
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    members = Members(files, lambda name: (folder / name).read_bytes())
    with _as_invalid(folder):
        named = {record.file for _, record in _records(members, "")}
    listed = {name: size for name, size in files.items() if name == INDEX_FILE or name in named}
    if sum(listed.values()) > limits.max_dataset_bytes:
        raise too_large(limits.max_dataset_bytes)
    with _as_invalid(folder):
        return _check(Members(listed, members.read), limits)


@contextmanager
def _as_invalid(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidDataset(f"{folder}: cannot be read ({error})") from error


def _check(members: Members, limits: UploadLimits) -> Upload:
    folder = _folder(members)
    _check_index(members, folder, limits)
    digest = hashlib.sha256()
    pages = words = questions = size = 0
    for where, record, picture in _pages(members, folder):
        page_picture(
            picture,
            f"{where}, file {record.file!r}",
            max_pixels=limits.max_image_pixels,
            size=(record.width, record.height),
        )
        line = record.to_json().encode()
        for part in framed(line, picture):
            digest.update(part)
        pages, words, questions = pages + 1, words + len(record.words), questions + len(record.questions)
        size += len(line) + len(picture)

    def rows() -> Iterator[tuple[str, bytes]]:
        return ((record.to_json(), picture) for _, record, picture in _pages(members, folder))

    return Upload(pages, words, questions, size, digest.hexdigest(), rows)


def _folder(members: Members) -> str:
    """The folder of the index, "" or one that ends in a slash."""
    found = [name for name in members.sizes if name.rpartition("/")[2] == INDEX_FILE]
    if len(found) != 1 or found[0].count("/") > 1:
        raise InvalidDataset(
            f"archive: must hold one {INDEX_FILE}, at the top or in its only folder; found {found[:3] or 'none'}"
        )
    if members.sizes[found[0]] > MAX_INDEX_BYTES:
        raise InvalidDataset(f"archive: {INDEX_FILE} has more than {MAX_INDEX_BYTES} bytes")
    return found[0].removesuffix(INDEX_FILE)


def _check_index(members: Members, folder: str, limits: UploadLimits) -> None:
    """Check everything that needs no open picture: fields, names, counts, sizes."""
    named: set[str] = set()
    pixels = words = 0
    for where, record in _records(members, folder):
        if record.file in named:
            raise InvalidDataset(f"{where}: field 'file': {record.file!r} is already the picture of another page")
        if folder + record.file not in members.sizes:
            raise InvalidDataset(f"{where}: field 'file': {record.file!r} is not in the archive")
        if members.sizes[folder + record.file] > limits.max_image_bytes:
            raise InvalidDataset(f"{where}: {record.file!r} has more than {limits.max_image_bytes} bytes")
        named.add(record.file)
        words += len(record.words)
        pixels += record.width * record.height
        if pixels > MAX_PIXELS_IN_ALL:
            raise InvalidDataset(f"{where}: more than {MAX_PIXELS_IN_ALL} pixels in all pictures up to here")
    if not words:
        raise InvalidDataset(f"{INDEX_FILE}: no page has a word")
    stray = members.sizes.keys() - {folder + name for name in (*named, INDEX_FILE)}
    if stray:
        raise InvalidDataset(f"archive: no line of {INDEX_FILE} names {min(stray)!a}")


def _records(members: Members, folder: str) -> Iterator[tuple[str, PageRecord]]:
    return read_records(BytesIO(members.read(folder + INDEX_FILE)), INDEX_FILE)


def _pages(members: Members, folder: str) -> Iterator[tuple[str, PageRecord, bytes]]:
    for where, record in _records(members, folder):
        yield where, record, members.read(folder + record.file)
