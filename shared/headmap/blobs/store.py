"""What a blob store is: bytes under their SHA-256, written whole and read whole."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from headmap.errors import DatasetUnavailable


@dataclass(frozen=True)
class StoredBlob:
    """What a store holds under a name: a blob, or what a writer that was killed left behind."""

    name: str
    """A blob's checksum, for a leftover with an end."""
    bytes: int
    written_at: datetime


class BlobStore(ABC):
    """Any number of threads and processes may use a store at once.

    Every method raises DatasetUnavailable when the store cannot be reached, refuses, or does not answer in time.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        """The store in messages; no credentials are in it."""

    def read(self, checksum: str) -> bytes:
        """Return a blob's bytes. Raises DatasetUnavailable, naming it, also when it is missing or damaged."""
        data = self._read(checksum)
        if checksum_of(data) != checksum:
            raise DatasetUnavailable(f"blob {checksum} in {self.place} is damaged")
        return data

    @abstractmethod
    def write(self, checksum: str, data: bytes) -> None:
        """Write a blob, whether or not it is there. Readers see all of it or nothing."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete what lies under a name, if anything does. Takes at most 10 seconds."""

    @abstractmethod
    def stored(self) -> Iterator[StoredBlob]:
        """List blobs and leftovers, in no order. Files of another kind are passed over."""

    @abstractmethod
    def _read(self, checksum: str) -> bytes:
        """Return the bytes as they lie there."""

    def _missing(self, checksum: str) -> DatasetUnavailable:
        return DatasetUnavailable(f"blob {checksum} is missing in {self.place}")

    def _failed(self, error: Exception) -> DatasetUnavailable:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        return DatasetUnavailable(f"the blob store {self.place} does not answer: {reason}")


def checksum_of(data: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(data).hexdigest()
