"""Blobs as objects of an S3 bucket, or of what speaks S3's protocol. Needs the extra `s3`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import aiohttp
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync

from headmap.blobs.store import BlobStore, StoredBlob
from headmap.errors import DatasetUnavailable

T = TypeVar("T")

_NAME = re.compile(r"[0-9a-f]{64}")
_CONNECT_SECONDS, _READ_SECONDS = 5, 10
_TRIES = 2
_DELETE_SECONDS = 10.0
_LIST_SECONDS = 600.0
_FAILURES = (OSError, BotoCoreError, ClientError, aiohttp.ClientError)


class S3Store(BlobStore):
    """`BUCKET/PREFIX/ab/abcd...`. Objects appear whole, so a killed writer leaves nothing that can be seen.

    Endpoint, region and credentials come from the usual AWS_* variables and files (botocore). Make it after a fork.
    """

    def __init__(self, path: str, *, seconds: float = 60.0) -> None:
        """`path`: BUCKET or BUCKET/PREFIX. `seconds`: longest time of a read or a write."""
        super().__init__(f"s3://{path}")
        self._path, self._seconds = path, seconds
        self._files = s3fs.S3FileSystem(
            anon=False,
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "retries": {"total_max_attempts": 1},  # s3fs tries again itself
            },
        )
        self._files.retries = _TRIES

    def write(self, checksum: str, data: bytes) -> None:
        self._call(self._files._pipe_file, self._key(checksum), data)

    def delete(self, name: str) -> None:
        self._call(self._files._rm_file, self._key(name), seconds=_DELETE_SECONDS)  # S3 says nothing of a missing one

    def stored(self) -> Iterator[StoredBlob]:
        found: dict[str, Any] = self._call(self._files._find, self._path, detail=True, seconds=_LIST_SECONDS)
        for key, about in found.items():
            name = key.rpartition("/")[2]
            if _NAME.fullmatch(name) and key == self._key(name):
                yield StoredBlob(name, about["size"], about["LastModified"])

    def _read(self, checksum: str) -> bytes:
        try:
            return self._call(self._files._cat_file, self._key(checksum))
        except DatasetUnavailable as error:
            # of a missing bucket s3fs says the same in other words
            if isinstance(error.__cause__, FileNotFoundError) and checksum in str(error.__cause__):
                raise self._missing(checksum) from error
            raise

    def _key(self, name: str) -> str:
        return f"{self._path}/{name[:2]}/{name}"

    def _call(self, work: Callable[..., Awaitable[T]], *values: Any, seconds: float | None = None, **options: Any) -> T:
        """Run a coroutine on fsspec's thread. Raises DatasetUnavailable, at the latest after `seconds`."""
        try:
            result: T = sync(self._files.loop, work, *values, timeout=seconds or self._seconds, **options)
        except _FAILURES as error:
            raise self._failed(error) from error
        return result
