"""Blobs as files of a folder: of this machine, or of a volume that all hosts mount."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from headmap.blobs.store import BlobStore, StoredBlob

_NAME = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{32})?")


class FolderStore(BlobStore):
    """`folder/ab/abcd...`; a write goes to a file with a name of its own, which is renamed once it is on the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder

    def write(self, checksum: str, data: bytes) -> None:
        path = self._path(checksum)
        partial = path.with_name(f"{checksum}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._failed(error) from error

    def delete(self, name: str) -> None:
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def stored(self) -> Iterator[StoredBlob]:
        try:
            for path in self._folder.glob("??/*"):
                if not _NAME.fullmatch(path.name) or path != self._path(path.name):
                    continue
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue  # deleted meanwhile
                yield StoredBlob(path.name, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))
        except OSError as error:
            raise self._failed(error) from error

    def _read(self, checksum: str) -> bytes:
        try:
            return self._path(checksum).read_bytes()
        except FileNotFoundError as error:
            raise self._missing(checksum) from error
        except OSError as error:
            raise self._failed(error) from error

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _sync_folder(folder: Path) -> None:
    """Bring the name onto the disk too, or a power cut could take it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
