"""Bring the registry's tables up to date with the Alembic scripts, in a checkout or an installed wheel.

Only `python -m services.migrate` migrates, and `headmap up` for its own registry. All other programs only compare, and
refuse a registry that is older or newer than their code, because another process may use it.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from headmap.errors import RegistryBroken, RegistryUnavailable
from headmap.registry.session import broken, is_broken, open_database, open_engine
from headmap.settings import Settings

logger = logging.getLogger(__name__)

MIGRATION_LOCK = 0x6865_6164  # an arbitrary number, the same in every process that migrates


def scripts_folder() -> Path:
    """Return the folder `migrations/` of the checkout, or its copy in the wheel."""
    packaged = Path(__file__).parent / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


def migrate(settings: Settings, revision: str = "head") -> None:
    """Upgrade (or, to an older `revision` or "base", downgrade) the registry, each step in a transaction of its own.

    A step that fails leaves the earlier ones in place. Several processes may call this at once: one works, the others
    wait for as long as it takes and find nothing to do. Raises RegistryUnavailable when the database cannot be reached,
    is of a newer version of Headmap, or is a file that SQLite cannot read.
    """
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(settings.sql_url, seconds=None, connections=0)
    try:
        with engine.connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:
                # Rebuilding a table in batch mode drops it for a moment; this setting works only outside a transaction.
                connection.rollback()
                raw = connection.connection.cursor()
                raw.execute("PRAGMA foreign_keys=OFF")
                raw.close()
            _move(connection, revision)
            if sqlite:
                _let_it_shrink(connection)
    except DBAPIError as error:
        if is_broken(error):
            raise broken(error, engine.url.database) from error
        if not isinstance(error, OperationalError | InterfaceError):
            raise
        raise RegistryUnavailable(f"the registry cannot be migrated: {error.orig}") from error
    finally:
        engine.dispose()


def check_revision(settings: Settings) -> None:
    """Check the registry without changes. Raises RegistryUnavailable if this code cannot use or reach it."""
    fault = revision_fault(read_revision(settings))
    if fault is not None:
        raise RegistryUnavailable(fault)


def start_fault(settings: Settings) -> str | None:
    """Say why a service must not start on this registry, and what to do; None if it may start.

    A service may start, and wait, if the registry does not answer or has no tables yet.
    """
    try:
        current = read_revision(settings)
    except RegistryBroken as error:
        return error.detail
    except RegistryUnavailable:
        return None
    return None if current is None else revision_fault(current)


def read_revision(settings: Settings) -> str | None:
    """Return the registry's migration; None if it has no tables or does not exist. Raises RegistryUnavailable."""
    if settings.database_url is None and not Path(str(settings.sql_url.database)).exists():
        return None
    database = open_database(settings, connections=0)
    try:
        with database.read() as session:
            return current_revision(session.connection())
    finally:
        database.close()


def revision_fault(current: str | None) -> str | None:
    """Say why this code cannot use a registry at the migration `current`, and what to do; None if it can."""
    known = [step.revision for step in ScriptDirectory(str(scripts_folder())).walk_revisions()]
    if current == known[0]:
        return None
    if current is None:
        return "the registry has no tables: `python -m services.migrate` makes them"
    if current in known:
        return (
            f"the registry stands at {current}, older than this code: `python -m services.migrate` brings it up to date"
        )
    return f"the registry stands at {current}, which this code does not know: use the newer Headmap that migrated it"


def current_revision(connection: Connection) -> str | None:
    """Return the database's current migration; None before the first."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def head_revision() -> str | None:
    """Return the newest migration that this code knows."""
    return ScriptDirectory(str(scripts_folder())).get_current_head()


def _let_it_shrink(connection: Connection) -> None:
    """Rewrite an SQLite file once so that `Database.shrink` works on it. Never runs while others use the file."""
    raw = connection.connection.cursor()
    try:
        if raw.execute("PRAGMA auto_vacuum").fetchone()[0] == 0:
            raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
            raw.execute("VACUUM")
    except sqlite3.OperationalError as error:
        logger.warning("the registry's file keeps the space of what is removed (%s)", error)
    finally:
        raw.close()


def _move(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    order = [step.revision for step in script.walk_revisions("base", "heads")][::-1]  # oldest first
    goal = -1 if revision == "base" else order.index(script.get_revision(revision).revision)
    with _alone(connection):
        start = _position(connection, order)
    while start != goal:
        move = command.upgrade if start < goal else command.downgrade
        start += 1 if start < goal else -1
        with _alone(connection):
            here = _position(connection, order)
            done = here >= start if move is command.upgrade else here <= start  # by another process
            if not done:
                move(config, "base" if start < 0 else order[start])


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """A transaction that waits for all other migrations. SQLite's takes its lock when it begins."""
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        yield


def _position(connection: Connection, order: list[str]) -> int:
    """The index of the database's migration in `order`; -1 before the first. Raises RegistryUnavailable."""
    current = current_revision(connection)
    if current is not None and current not in order:
        raise RegistryUnavailable(str(revision_fault(current)))
    return -1 if current is None else order.index(current)
