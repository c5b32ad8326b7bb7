"""A store with copies of its blobs on this machine's disk, up to a number of bytes."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from headmap.blobs.store import BlobStore, StoredBlob, checksum_of

logger = logging.getLogger(__name__)


class CachedStore(BlobStore):
    """Reads come from the folder where it has the blob. Those least recently read leave it for others.

    Processes of one host share the folder. Where its disk fails, blobs are read from the store alone.
    """

    def __init__(self, store: BlobStore, folder: Path, max_bytes: int) -> None:
        super().__init__(store.place)
        self._store, self._folder, self._max_bytes = store, folder, max_bytes

    def write(self, checksum: str, data: bytes) -> None:
        self._store.write(checksum, data)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def stored(self) -> Iterator[StoredBlob]:
        return self._store.stored()

    def _read(self, checksum: str) -> bytes:
        copy = self._folder / checksum
        try:
            data = copy.read_bytes()
            if checksum_of(data) == checksum:
                os.utime(copy)  # its age is the time since it was read
                return data
            copy.unlink(missing_ok=True)
        except OSError:
            pass  # no copy, or none that can be read
        data = self._store.read(checksum)
        if len(data) <= self._max_bytes:
            try:
                self._keep(copy, data)
            except OSError as error:
                logger.warning("blobs are not cached: %s", error)
        return data

    def _keep(self, copy: Path, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room(len(data))
        partial = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
        try:
            partial.write_bytes(data)
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        copies = []
        for entry in os.scandir(self._folder):
            try:
                about = entry.stat()
            except FileNotFoundError:
                continue  # another process made room
            copies.append((about.st_mtime_ns, about.st_size, entry.path))
        held = sum(one[1] for one in copies)
        for _, bytes_, path in sorted(copies):
            if held + size <= self._max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            held -= bytes_
