"""A user's own pages into the registry, once `checking` has found them right."""

from __future__ import annotations

import re

from sqlalchemy.exc import IntegrityError

from headmap.datasets.checking import Upload
from headmap.datasets.sources import BUILT_IN
from headmap.errors import DatasetBuiltIn, InvalidParameter, Unavailable
from headmap.registry.datasets import DatasetRecord, add_dataset
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


def file_upload(database: Database, name: str, upload: Upload) -> tuple[DatasetRecord, bool]:
    """Put a checked upload into the registry, all of it or nothing. Also returns whether it is new.

    Raises as check_name does, DatasetExists if the name holds other pages, and RegistryUnavailable.
    """
    check_name(name)
    for _ in range(_TRIES):
        try:
            with database.write() as session:
                return add_dataset(
                    session,
                    name,
                    upload.rows(),
                    pages=upload.pages,
                    words=upload.words,
                    questions=upload.questions,
                    size=upload.size,
                    checksum=upload.checksum,
                )
        except IntegrityError:
            continue  # an equal name was first; look again
    raise Unavailable(f"name: {name!r} is being uploaded and removed at this moment; try again")
