"""The bundled model's own map. Every registry has it, so that the first sparsemm request has a map to use.

The package contains it as the file `head_map.json` beside the weights. Its alias is `bundled`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from headmap.datasets.moving import move_pages
from headmap.errors import DatasetUnavailable
from headmap.map_kinds import VISUAL
from headmap.models import DEMO_FOLDER, DEMO_MODEL, HEAD_MAP
from headmap.registry.aliases import PACKAGE, nobody_chose, point, pointed_at
from headmap.registry.map_file import MapFile, add_map_file, parse_map_file
from headmap.registry.migrations import check_revision, migrate, read_revision
from headmap.registry.session import Database, open_database
from headmap.registry.tables import Map
from headmap.settings import Settings

logger = logging.getLogger(__name__)

BUNDLED_ALIAS = "bundled"

_LOCK = 0x6865_6170  # an arbitrary number, the same in every process that files the map


def read_bundled_map(path: Path = DEMO_FOLDER / HEAD_MAP) -> MapFile:
    """Read the bundled map. Raises InvalidParameter and InvalidScores if the file is no map file."""
    return parse_map_file(json.loads(path.read_text(encoding="utf-8")))


def prepare_registry(settings: Settings) -> None:
    """Migrate the registry, file the bundled map, and move datasets' pages to the blob store.

    The owner of a registry calls this before using it; several processes may do so at once. Pages stay where they are,
    and can be read there, while the store is away. Raises RegistryUnavailable.
    """
    migrate(settings)
    database = open_database(settings, connections=1)
    try:
        file_bundled_map(database)
        try:
            move_pages(database, settings)
        except DatasetUnavailable as error:
            logger.warning("pages stay in the registry until the next migration: %s", error)
    finally:
        database.close()


def use_registry(settings: Settings) -> None:
    """Prepare the registry for a command: make one in the data directory if there is none, else only check it.

    Raises RegistryUnavailable if the registry does not answer, or is older or newer than this code.
    """
    if settings.database_url is None and read_revision(settings) is None:
        prepare_registry(settings)
    else:
        check_revision(settings)


def file_bundled_map(database: Database, ours: MapFile | None = None) -> None:
    """File the bundled map (by default this package's) as `bundled` and `default`, if its model has no visual map.

    If the registry has the map of an earlier package, the new map takes over `bundled`, and also `default` unless
    somebody has moved it. A user's maps are never replaced. Any number of processes may call this at once and
    repeatedly. Raises RegistryUnavailable.
    """
    ours = ours or read_bundled_map()
    with database.read() as session:
        if not _is_due(session, ours):
            return
    with database.write() as session:
        if session.get_bind().dialect.name == "postgresql":  # SQLite's writers wait for each other anyway
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        if not _is_due(session, ours):
            return
        model = ours.provenance.model
        map_id = add_map_file(session, ours, promote=nobody_chose(session, model), by=PACKAGE)
        point(session, model, BUNDLED_ALIAS, map_id, by=PACKAGE)


def _is_due(session: Session, ours: MapFile) -> bool:
    """Whether the model has no visual map, or the alias `bundled` points at the map of another package."""
    earlier = pointed_at(session, DEMO_MODEL, BUNDLED_ALIAS)
    if earlier is None:
        visual = select(Map.id).where(Map.model == DEMO_MODEL, Map.kind == VISUAL)
        return session.scalar(visual.limit(1)) is None
    there = select(Map.id).where(
        Map.model == DEMO_MODEL,
        Map.revision == ours.provenance.revision,
        Map.checksum == ours.scores.checksum(),
    )
    return session.scalar(there.limit(1)) is None
