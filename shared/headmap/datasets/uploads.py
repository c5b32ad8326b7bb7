"""A user's own pages into the registry and the blob store, once `checking` has found them right; and out again."""

from __future__ import annotations

import re

from sqlalchemy.exc import IntegrityError

from headmap.blobs.store import BlobStore
from headmap.datasets.checking import Upload
from headmap.datasets.packs import packed
from headmap.datasets.sources import BUILT_IN
from headmap.errors import DatasetBuiltIn, InvalidParameter, Unavailable
from headmap.registry.blobs import write_blob
from headmap.registry.datasets import DatasetRecord, add_dataset, find_equal
from headmap.registry.session import Database

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
MAX_NAME = 64

_TRIES = 5


def check_name(name: str) -> None:
    """Raises InvalidParameter for a text that cannot be an upload's name, and DatasetBuiltIn."""
    if not re.fullmatch(NAME, name) or len(name) > MAX_NAME:
        raise InvalidParameter(
            f"name: must be 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, got {name!a}", param="name"
        )
    if name in BUILT_IN:
        raise DatasetBuiltIn(f"name: {name!r} is the name of a built-in dataset", param="name")


def file_upload(database: Database, blobs: BlobStore, name: str, upload: Upload) -> tuple[DatasetRecord, bool]:
    """File a checked upload, all of it or nothing. Also returns whether it is new.

    Its blobs come first, then one transaction makes the dataset visible. Blobs of an upload that breaks off are cleared
    away a day later. Raises as check_name does, DatasetExists if the name holds other pages, DatasetUnavailable and
    RegistryUnavailable.
    """
    check_name(name)
    for _ in range(_TRIES):
        with database.read() as session:
            found = find_equal(session, name, upload.checksum)
        if found is not None:
            return found, False
        packs = [(pack.first, pack.pages, write_blob(database, blobs, pack.data)) for pack in packed(upload.rows())]
        try:
            with database.write() as session:
                return add_dataset(
                    session,
                    name,
                    packs,
                    pages=upload.pages,
                    words=upload.words,
                    questions=upload.questions,
                    size=upload.size,
                    checksum=upload.checksum,
                )
        except IntegrityError:
            continue  # an equal name was first, or a blob has been cleared away; look again
    raise Unavailable(f"name: {name!r} is being uploaded and removed at this moment; try again")
