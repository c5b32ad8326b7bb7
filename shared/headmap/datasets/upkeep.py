"""Hold the blob store against the registry: what is missing, what nobody needs, and clearing that away."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from headmap.blobs.store import BlobStore, StoredBlob
from headmap.errors import DatasetUnavailable, Unavailable
from headmap.registry.blobs import clear_blob, unused_blobs, used_blobs
from headmap.registry.session import Database, utc_now

logger = logging.getLogger(__name__)

UPLOAD_TIME = timedelta(days=1)
"""An upload that takes longer may have to begin again, as its first blobs look forgotten."""


@dataclass(frozen=True)
class StoreReport:
    """A blob store beside its registry. Blobs are named by their checksums."""

    blobs: int
    bytes: int
    missing: dict[str, list[str]]
    """By dataset: its blobs that are not there."""
    damaged: dict[str, list[str]]
    """By dataset: its blobs with other bytes than their names say. Empty unless they were read."""
    orphans: list[StoredBlob]
    """What no dataset has, and no upload can be about to need."""


def check_store(database: Database, blobs: BlobStore, *, read: bool = False) -> StoreReport:
    """Compare the store with the registry, and read every blob if `read`.

    Raises DatasetUnavailable where the store does not answer, and RegistryUnavailable.
    """
    with database.read() as session:
        used = list(used_blobs(session))
        old = utc_now(session) - UPLOAD_TIME
    stored = {one.name: one for one in blobs.stored()}
    owned = {checksum for _, checksum in used}
    wrong = {checksum for checksum in owned & stored.keys() if read and not _is_whole(blobs, checksum)}
    return StoreReport(
        blobs=len(stored),
        bytes=sum(one.bytes for one in stored.values()),
        missing=_by_dataset(used, owned - stored.keys()),
        damaged=_by_dataset(used, wrong),
        orphans=[one for one in stored.values() if one.name not in owned and one.written_at < old],
    )


def clear_orphans(database: Database, blobs: BlobStore, orphans: Iterable[StoredBlob]) -> int:
    """Delete those orphans that still are some. Returns how many. Raises as check_store does."""
    with database.read() as session:
        old = utc_now(session) - UPLOAD_TIME
    count = 0
    for one in orphans:
        if "." in one.name:  # what a killed writer left
            blobs.delete(one.name)
            count += 1
        else:
            count += clear_blob(database, blobs, one.name, claimed_before=old)
    return count


def clear_after_removal(database: Database, blobs: BlobStore, removed: Iterable[str]) -> None:
    """Delete a removed dataset's blobs that no other dataset has, and those of uploads that broke off a day ago.

    What cannot be deleted now is left for the next removal.
    """
    try:
        with database.read() as session:
            now = utc_now(session)
            forgotten = unused_blobs(session, claimed_before=now - UPLOAD_TIME)
        for checksum in removed:
            clear_blob(database, blobs, checksum, claimed_before=now)
        for checksum in forgotten:
            clear_blob(database, blobs, checksum, claimed_before=now - UPLOAD_TIME)
        database.shrink()
    except Unavailable as error:
        logger.warning("the space of a removed dataset is given back after the next one: %s", error)


def _is_whole(blobs: BlobStore, checksum: str) -> bool:
    try:
        blobs.read(checksum)
    except DatasetUnavailable:
        return False
    return True


def _by_dataset(used: Iterable[tuple[str, str]], wrong: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, checksum in used:
        if checksum in wrong:
            found.setdefault(name, []).append(checksum)
    return found
