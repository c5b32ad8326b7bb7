"""An uploaded archive as named bytes: zip, tar or tar.gz, told apart by content, and opened under limits.

Nothing is unpacked under a name that the archive chose. Members are read one at a time, and a compressed tar goes
into one nameless temporary file first. A member must be a plain file at a plain relative path. No more bytes are read
than were counted.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, BinaryIO

from headmap.errors import DatasetTooLarge, InvalidDataset

MAX_MEMBERS = 100_001
"""As many pages as a job can read, and their index."""

MAX_NAME_BYTES = 1024
"""Of a member, with its folders."""

_MAX_DIRECTORY = 32 * 2**20
"""Bytes of a zip's directory, which the library reads as a whole."""
_ENTRY = struct.Struct("<4s24xHHH12x")
"""An entry of that directory up to its name: its signature, and the lengths of name, extra field and comment."""
_MAX_EXTENSION = 64 * 2**10
"""Bytes of one extended tar header."""
_MAX_ENTRIES = MAX_MEMBERS + 1000  # some folders and leftovers of file managers are no pages
_CHUNK = 2**20
_FOREIGN = re.compile(r"^[A-Za-z]:|[\\\0]|^$")
"""Drives and backslashes, which are places on Windows, and NUL."""
_JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")


@dataclass(frozen=True)
class Members:
    """The plain files of an archive by name; `read` gives one whole, and raises InvalidDataset for a broken one."""

    sizes: dict[str, int]
    read: Callable[[str], bytes]


@contextmanager
def open_archive(file: BinaryIO, *, max_bytes: int) -> Iterator[Members]:
    """Open an archive of at most `max_bytes` unpacked. The caller keeps `file` open.

    Raises InvalidDataset, naming the member at fault, and DatasetTooLarge.
    """
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    with ExitStack() as opened:
        if start == b"PK":
            members = _open_zip(file)
        elif start == b"\x1f\x8b":
            plain = opened.enter_context(tempfile.TemporaryFile())
            _gunzip(file, plain, max_bytes)
            members = _open_tar(plain)
        else:
            members = _open_tar(file)
        if sum(members.sizes.values()) > max_bytes:
            raise too_large(max_bytes)
        yield members


def too_large(max_bytes: int) -> DatasetTooLarge:
    return DatasetTooLarge(f"archive: has more than {max_bytes} bytes when unpacked", param="archive")


class _Names:
    """Checks members' names as they are listed, and keeps the names of plain files."""

    def __init__(self) -> None:
        self._seen = 0
        self._taken: set[str] = set()

    def keep(self, name: str, *, plain: bool, folder: bool) -> bool:
        """Whether the member belongs to a page or is the index: no folder, no leftover of a file manager."""
        self._seen += 1
        if self._seen > _MAX_ENTRIES:
            raise _too_many()
        if len(name) > MAX_NAME_BYTES:  # a character takes a byte at least
            raise InvalidDataset(f"archive: a member's name of {len(name)} characters", param="archive")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or _FOREIGN.search(name):
            raise InvalidDataset(f"archive: member {name!a} lies outside the archive's own folder", param="archive")
        if not plain and not folder:
            raise InvalidDataset(f"archive: member {name!a} is not a plain file", param="archive")
        if folder or any(part in _JUNK or part.startswith("._") for part in path.parts):
            return False
        if name in self._taken:
            raise InvalidDataset(f"archive: member {name!a} occurs twice", param="archive")
        self._taken.add(name)
        return True


# Zip


def _open_zip(file: BinaryIO) -> Members:
    _check_directory(file)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise InvalidDataset(f"archive: the zip file is broken ({error})", param="archive") from error
    names, infos = _Names(), {}
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if names.keep(info.filename, plain=kind in (0, stat.S_IFREG), folder=info.filename.endswith("/")):
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InvalidDataset(
                    f"archive: member {info.filename!a} is encrypted, or compressed by a method other than deflate",
                    param="archive",
                )
            infos[info.filename] = info

    def read(name: str) -> bytes:
        try:
            with archive.open(infos[name]) as member:
                data = member.read()  # the library gives at most `file_size` bytes, and checks their sum
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError) as error:
            raise InvalidDataset(f"archive: member {name!a} is broken ({error})", param="archive") from error
        if len(data) != infos[name].file_size:
            raise InvalidDataset(f"archive: member {name!a} is broken (it is cut short)", param="archive")
        return data

    return Members({name: info.file_size for name, info in infos.items()}, read)


def _check_directory(file: BinaryIO) -> None:
    """Refuse a directory that costs too much before the library reads it: its size, its entries and their names.

    Where the directory lies is in the file's last record (APPNOTE 6.3, section 4.3.16). That also tells how many
    entries there are, but nothing makes that true.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 65_536 - 22 - 20))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise InvalidDataset("archive: the zip file is broken or cut short", param="archive")
    if b"PK\x06\x07" in tail[:end][-20:]:
        raise InvalidDataset("archive: zip64 is not supported; no allowed upload needs it", param="archive")
    told = int.from_bytes(tail[end + 10 : end + 12], "little")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    start = size - len(tail) + end - length
    if length > _MAX_DIRECTORY:
        raise _too_many()
    if start < 0:
        raise InvalidDataset("archive: the zip file is broken or cut short", param="archive")
    file.seek(start)
    found = _count_entries(file.read(length))
    file.seek(0)
    if found != told:
        raise InvalidDataset(f"archive: the zip file tells of {told} members and has {found}", param="archive")


def _count_entries(directory: bytes) -> int:
    """Entries of a zip's directory. Raises InvalidDataset for too many, for a long name, and for a broken directory."""
    count = place = 0
    while place < len(directory):
        if count == _MAX_ENTRIES:
            raise _too_many()
        if place + _ENTRY.size > len(directory) or directory[place : place + 4] != b"PK\x01\x02":
            raise InvalidDataset("archive: the zip file's directory is broken", param="archive")
        _, name, extra, comment = _ENTRY.unpack_from(directory, place)
        if name > MAX_NAME_BYTES:
            raise InvalidDataset(f"archive: a member's name of {name} bytes", param="archive")
        place += _ENTRY.size + name + extra + comment
        count += 1
    return count


def _too_many() -> InvalidDataset:
    return InvalidDataset(f"archive: more than {MAX_MEMBERS} members", param="archive")


# Tar


def _gunzip(file: BinaryIO, plain: IO[bytes], max_bytes: int) -> None:
    """Write a gzip file's content to `plain`. Raises DatasetTooLarge as soon as it exceeds `max_bytes`."""
    room = max_bytes + 2 * tarfile.BLOCKSIZE * MAX_MEMBERS  # a member's header, and the padding of its last block
    written = 0
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            while chunk := packed.read(_CHUNK):
                written += len(chunk)
                if written > room:
                    raise too_large(max_bytes)
                plain.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidDataset(f"archive: the gzip file is broken ({error})", param="archive") from error


def _open_tar(file: IO[bytes]) -> Members:
    """Walk a tar's headers. The library's own walk reads extended headers of any size into memory."""
    end = file.seek(0, 2)
    names = _Names()
    places: dict[str, tuple[int, int]] = {}
    offset, long_name = 0, None
    while (header := _header(file, offset)) is not None:
        data = offset + tarfile.BLOCKSIZE
        if data + header.size > end:
            raise InvalidDataset("archive: the tar file is cut short", param="archive")
        offset = data + -(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if header.size > _MAX_EXTENSION:
                raise InvalidDataset(
                    f"archive: an extended header has {header.size} bytes; at most {_MAX_EXTENSION} are accepted",
                    param="archive",
                )
            file.seek(data)
            long_name = _long_name(header.type, file.read(header.size)) or long_name
            continue
        name, long_name = long_name or header.name, None
        if names.keep(
            name.removeprefix("./") or ".",
            plain=header.type in (tarfile.REGTYPE, tarfile.AREGTYPE),
            folder=header.isdir(),
        ):
            places[name.removeprefix("./")] = (data, header.size)

    def read(name: str) -> bytes:
        place, size = places[name]
        file.seek(place)
        return file.read(size)

    return Members({name: size for name, (_, size) in places.items()}, read)


def _header(file: IO[bytes], offset: int) -> tarfile.TarInfo | None:
    """The header block at `offset`; None at the end."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if offset and not block.strip(b"\0"):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise InvalidDataset("archive: is not a zip, tar or tar.gz file", param="archive") from error
    if header.size < 0:
        raise InvalidDataset(f"archive: member {header.name!a} has {header.size} bytes", param="archive")
    return header


def _long_name(kind: bytes, data: bytes) -> str | None:
    """The next member's name, if an extended header gives it; the header must not give lengths or links."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    if kind != tarfile.XHDTYPE:
        return None
    name = None
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 1 < int(length) <= len(data):
            raise InvalidDataset("archive: an extended header is broken", param="archive")
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise InvalidDataset(
                "archive: sparse files and sizes in extended headers are not supported", param="archive"
            )
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return name
