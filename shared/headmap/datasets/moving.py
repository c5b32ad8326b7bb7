"""Move pages that lie in the registry itself into the blob store, and back for an older release.

Pack by pack, each in a transaction: it can be interrupted and called again, and readers find every page at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from headmap.blobs.location import open_blobs
from headmap.datasets.packs import packed, unpacked
from headmap.datasets.upkeep import clear_after_removal
from headmap.registry.blobs import write_blob
from headmap.registry.datasets import list_packs, open_job, read_page
from headmap.registry.session import Database, changed
from headmap.registry.tables import Dataset, DatasetPack, DatasetPage
from headmap.settings import Settings

logger = logging.getLogger(__name__)


def move_pages(database: Database, settings: Settings) -> int:
    """Move all datasets' pages into the store, and return how many. Raises DatasetUnavailable and RegistryUnavailable.

    A dataset that a job reads stays for the next call, because workers of an older release look only in the registry.
    """
    with database.read() as session:
        query = select(Dataset.id, Dataset.name, func.min(DatasetPage.number), func.max(DatasetPage.number))
        query = query.join(DatasetPage, DatasetPage.dataset_id == Dataset.id).group_by(Dataset.id, Dataset.name)
        left = session.execute(query).all()
    if not left:
        return 0
    blobs = open_blobs(settings)
    moved = 0
    for dataset_id, name, first, last in left:
        for pack in packed(_rows(database, dataset_id, first, last), first=first):
            blob_id = write_blob(database, blobs, pack.data)
            reason = _refer(database, dataset_id, name, pack.first, pack.pages, blob_id)
            if reason is not None:
                logger.warning("pages of dataset %r stay in the registry for now: %s", name, reason)
                break
            moved += pack.pages
    if moved:
        logger.info("%d pages moved from the registry to %s", moved, blobs.place)
        database.shrink()
    return moved


def bring_back(database: Database, settings: Settings) -> int:
    """Put the pages of all datasets into the registry itself, and return how many. Raises as move_pages does.

    Nobody else may write or read datasets meanwhile.
    """
    with database.read() as session:
        datasets = session.scalars(select(DatasetPack.dataset_id).distinct()).all()
        packs = [(dataset_id, pack) for dataset_id in datasets for pack in list_packs(session, dataset_id)]
    if not packs:
        return 0
    blobs, pages = open_blobs(settings), 0
    for dataset_id, pack in packs:
        rows = [
            {"dataset_id": dataset_id, "number": number, "record": record, "picture": picture}
            for number, (record, picture) in enumerate(unpacked(blobs.read(pack.checksum)), start=pack.first)
        ]
        with database.write() as session:
            session.execute(insert(DatasetPage), rows)
            of_pack = (DatasetPack.dataset_id == dataset_id, DatasetPack.first == pack.first)
            changed(session, delete(DatasetPack).where(*of_pack))
        pages += len(rows)
    clear_after_removal(database, blobs, {pack.checksum for _, pack in packs})
    return pages


def _rows(database: Database, dataset_id: str, first: int, last: int) -> Iterator[tuple[str, bytes]]:
    for number in range(first, last + 1):
        with database.read() as session:
            row = read_page(session, dataset_id, number)
        if row is None:
            return  # somebody else moves or removes this dataset
        yield row


def _refer(database: Database, dataset_id: str, name: str, first: int, pages: int, blob_id: str) -> str | None:
    """Let the dataset have its pages in a blob instead of the registry. Returns why not, if it cannot be done."""
    try:
        with database.write() as session:
            if session.scalar(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update()) is None:
                return "it has been removed"
            if (job := open_job(session, name)) is not None:
                return f"job {job} reads it"
            pack = {"dataset_id": dataset_id, "first": first, "pages": pages, "blob_id": blob_id}
            session.execute(insert(DatasetPack), [pack])
            of_pack = (DatasetPage.dataset_id == dataset_id, DatasetPage.number.between(first, first + pages - 1))
            changed(session, delete(DatasetPage).where(*of_pack))
    except IntegrityError:
        return "somebody else moves it"
    return None
