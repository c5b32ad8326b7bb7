"""The blob store that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from headmap.blobs.cache import CachedStore
from headmap.blobs.folder import FolderStore
from headmap.blobs.store import BlobStore
from headmap.errors import DatasetUnavailable
from headmap.settings import Settings

CACHE_FOLDER = "blob-cache"


def open_blobs(settings: Settings) -> BlobStore:
    """Open the store of HEADMAP_BLOB_URL, without a call to it. Open one per process, after a fork.

    S3 gets a cache in the data directory; a folder is read where it lies. Raises DatasetUnavailable where the packages
    for S3 are not installed.
    """
    if settings.blob_url is None:
        return FolderStore(settings.data_dir / "blobs")
    parts = urlsplit(settings.blob_url)
    if parts.scheme == "file":
        return FolderStore(Path(url2pathname(parts.path)))
    try:
        from headmap.blobs.s3 import S3Store
    except ImportError as error:
        raise DatasetUnavailable(
            f"HEADMAP_BLOB_URL: {settings.blob_url} needs the extra `s3`: pip install 'headmap[s3]' ({error})"
        ) from error
    store = S3Store(parts.netloc + parts.path.rstrip("/"))
    if not settings.blob_cache_bytes:
        return store
    return CachedStore(store, settings.data_dir / CACHE_FOLDER, settings.blob_cache_bytes)
