"""Which blobs the store should hold, and the order of steps that keeps a clean-up from an upload's blobs.

Whoever writes a blob claims it first, in a transaction of its own, and refers to the row that it got. Whoever clears a
blob away deletes the row, then the blob, and only then commits. So a claim waits for a clean-up of the same blob, and a
row that was cleared away leaves a reference that fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from headmap.blobs.store import BlobStore, checksum_of
from headmap.registry.session import Database, changed, utc_now
from headmap.registry.tables import Blob, Dataset, DatasetPack

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_REFERRED = exists().where(DatasetPack.blob_id == Blob.id)


def write_blob(database: Database, store: BlobStore, data: bytes) -> str:
    """Write a blob and return its row's id, for a reference. Raises DatasetUnavailable and RegistryUnavailable.

    It is written even where it should be there already, which mends a damaged one.
    """
    checksum = checksum_of(data)
    with database.write() as session:
        claimed_at = utc_now(session)
        claim = _insert(session).values(id=uuid.uuid4().hex, checksum=checksum, bytes=len(data), claimed_at=claimed_at)
        claim = claim.on_conflict_do_update(index_elements=["checksum"], set_={"claimed_at": claimed_at})
        blob_id: str = session.execute(claim.returning(Blob.id)).scalar_one()
    store.write(checksum, data)
    return blob_id


def clear_blob(database: Database, store: BlobStore, checksum: str, *, claimed_before: datetime) -> bool:
    """Delete a blob that no dataset has and nobody has claimed since; return whether it was deleted.

    Also deletes a blob that the registry does not know. Raises DatasetUnavailable and RegistryUnavailable.
    """
    try:
        with database.write() as session:
            row = _insert(session).values(id=uuid.uuid4().hex, checksum=checksum, bytes=0, claimed_at=_NEVER)
            session.execute(row.on_conflict_do_nothing(index_elements=["checksum"]))
            unused = (Blob.checksum == checksum, Blob.claimed_at < claimed_before, ~_REFERRED)
            if not changed(session, delete(Blob).where(*unused)):
                return False
            store.delete(checksum)
    except IntegrityError:
        return False  # a dataset was filed at this moment
    return True


def unused_blobs(session: Session, *, claimed_before: datetime) -> list[str]:
    """Return the checksums of blobs that no dataset has and nobody has claimed since."""
    return list(session.scalars(select(Blob.checksum).where(Blob.claimed_at < claimed_before, ~_REFERRED)))


def known_blobs(session: Session) -> dict[str, int]:
    """Return checksum and bytes of every blob that is in use or claimed."""
    return {row.checksum: row.bytes for row in session.execute(select(Blob.checksum, Blob.bytes))}


def used_blobs(session: Session) -> Iterator[tuple[str, str]]:
    """Yield the name of each dataset with the checksum of each blob that it has."""
    query = select(Dataset.name, Blob.checksum).join(DatasetPack, DatasetPack.dataset_id == Dataset.id)
    for row in session.execute(
        query.join(Blob, Blob.id == DatasetPack.blob_id).order_by(Dataset.name, DatasetPack.first)
    ):
        yield row.name, row.checksum


def _insert(session: Session) -> postgresql.Insert | sqlite.Insert:
    return (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert(Blob)
