"""A user's own pages on their way into the registry: checked in full before anything is stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.exc import IntegrityError

from headmap.datasets.archive import Members, open_archive, too_large
from headmap.datasets.pictures import page_picture
from headmap.datasets.records import INDEX_FILE, PageRecord, parse_record
from headmap.datasets.sources import BUILT_IN
from headmap.errors import DatasetBuiltIn, InvalidDataset, InvalidParameter, Unavailable
from headmap.registry.datasets import DatasetRecord, add_dataset
from headmap.registry.session import Database
from headmap.settings import Settings

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
MAX_NAME = 64
MAX_PAGES = 100_000
MAX_LINES = 2 * MAX_PAGES
"""Of the index, blank ones among them."""
MAX_INDEX_BYTES = 64 * 2**20
MAX_PIXELS_IN_ALL = 20_000_000_000
"""Of all pictures together: 10,000 of two megapixels. Decoding them takes a core some minutes."""


_TRIES = 5


@dataclass(frozen=True)
class Upload:
    """A set of pages that has been checked. `checksum` is the same for the same pages in any container."""

    pages: int
    words: int
    questions: int
    size: int
    """Bytes of pictures and records."""
    checksum: str
    _members: Members
    _folder: str

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Each page's record as JSON and its picture file, in the index's order."""
        return ((record.to_json(), picture) for _, record, picture in _pages(self._members, self._folder))


@contextmanager
def check_archive(file: BinaryIO, settings: Settings) -> Iterator[Upload]:
    """Read every member, every field and every pixel of an archive.

    It holds `pages.jsonl` and the pictures that it names, at its top or all in one folder, and nothing else. Raises
    InvalidDataset, naming the member, line and field at fault, and DatasetTooLarge.
    """
    with open_archive(file, max_bytes=settings.max_dataset_bytes) as members:
        yield _check(members, settings)


def check_folder(folder: Path, settings: Settings) -> Upload:
    """The same for a folder on this machine, in which other files may lie."""
    index = folder / INDEX_FILE
    if not index.is_file():
        raise InvalidDataset(f"{index}: no such file")
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    members = Members(files, lambda name: (folder / name).read_bytes())
    with _as_invalid(folder):
        named = {record.file for _, record in _records(members, "")}
    listed = {name: size for name, size in files.items() if name == INDEX_FILE or name in named}
    if sum(listed.values()) > settings.max_dataset_bytes:
        raise too_large(settings.max_dataset_bytes)
    with _as_invalid(folder):
        return _check(Members(listed, members.read), settings)


def check_name(name: str) -> None:
    """Raises InvalidParameter for a text that cannot be an upload's name, and DatasetBuiltIn."""
    if not re.fullmatch(NAME, name) or len(name) > MAX_NAME:
        raise InvalidParameter(
            f"name: must be 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, got {name!a}", param="name"
        )
    if name in BUILT_IN:
        raise DatasetBuiltIn(f"name: {name!r} is the name of a built-in dataset", param="name")


def file_upload(database: Database, name: str, upload: Upload) -> tuple[DatasetRecord, bool]:
    """Put a checked upload into the registry, all of it or nothing. Also returns whether it is new.

    Raises as check_name does, DatasetExists if the name holds other pages, and RegistryUnavailable.
    """
    check_name(name)
    for _ in range(_TRIES):
        try:
            with database.write() as session:
                return add_dataset(
                    session,
                    name,
                    upload,
                    pages=upload.pages,
                    words=upload.words,
                    questions=upload.questions,
                    size=upload.size,
                    checksum=upload.checksum,
                )
        except IntegrityError:
            continue  # an equal name was first; look again
    raise Unavailable(f"name: {name!r} is being uploaded and removed at this moment; try again")


@contextmanager
def _as_invalid(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidDataset(f"{folder}: cannot be read ({error})") from error


def _check(members: Members, settings: Settings) -> Upload:
    folder = _folder(members)
    _check_index(members, folder, settings)
    digest = hashlib.sha256()
    pages = words = questions = size = 0
    for where, record, picture in _pages(members, folder):
        page_picture(
            picture,
            f"{where}, file {record.file!r}",
            max_pixels=settings.max_image_pixels,
            size=(record.width, record.height),
        )
        line = record.to_json().encode()
        for part in (line, picture):
            digest.update(len(part).to_bytes(8, "big") + part)
        pages, words, questions = pages + 1, words + len(record.words), questions + len(record.questions)
        size += len(line) + len(picture)
    return Upload(pages, words, questions, size, digest.hexdigest(), members, folder)


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


def _check_index(members: Members, folder: str, settings: Settings) -> None:
    """Check everything that needs no open picture: fields, names, counts, sizes."""
    named: set[str] = set()
    pixels = words = 0
    for where, record in _records(members, folder):
        if len(named) == MAX_PAGES:
            raise InvalidDataset(f"{where}: more than {MAX_PAGES} pages")
        if record.file in named:
            raise InvalidDataset(f"{where}: field 'file': {record.file!r} is already the picture of another page")
        if folder + record.file not in members.sizes:
            raise InvalidDataset(f"{where}: field 'file': {record.file!r} is not in the archive")
        if members.sizes[folder + record.file] > settings.max_image_bytes:
            raise InvalidDataset(f"{where}: {record.file!r} has more than {settings.max_image_bytes} bytes")
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
    """Each record and where it stands."""
    for number, line in enumerate(BytesIO(members.read(folder + INDEX_FILE)), start=1):
        where = f"{INDEX_FILE}, line {number}"
        if number > MAX_LINES:
            raise InvalidDataset(f"{where}: more than {MAX_LINES} lines")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidDataset(f"{where}: not UTF-8 ({error})") from error
        if text.strip():
            yield where, parse_record(text, where)


def _pages(members: Members, folder: str) -> Iterator[tuple[str, PageRecord, bytes]]:
    for where, record in _records(members, folder):
        yield where, record, members.read(folder + record.file)
