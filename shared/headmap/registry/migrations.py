"""Bring the registry's tables up to date with the Alembic scripts, in a checkout or an installed wheel."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError

from headmap.errors import RegistryUnavailable
from headmap.registry.session import open_engine
from headmap.settings import Settings

_LOCK = 0x6865_6164  # an arbitrary number, the same in every process that migrates


def scripts_folder() -> Path:
    """`migrations/` of the checkout, or its copy in the wheel."""
    packaged = Path(__file__).parent / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


def migrate(settings: Settings, revision: str = "head") -> None:
    """Upgrade (or, to an older `revision` or "base", downgrade) the registry, in one transaction.

    Several processes may call it at once: one works, the others wait and find nothing to do. Raises
    RegistryUnavailable when the database cannot be reached, or is a file that SQLite cannot read.
    """
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(settings.sql_url, poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                # Rebuilding a table in batch mode drops it for a moment; this setting works only outside a transaction.
                connection.rollback()
                raw = connection.connection.cursor()
                raw.execute("PRAGMA foreign_keys=OFF")
                raw.close()
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                _move(connection, revision)
    except (OperationalError, InterfaceError) as error:
        raise RegistryUnavailable(f"the registry{_file(settings)} cannot be migrated: {error.orig}") from error
    except DatabaseError as error:
        if type(error) is not DatabaseError:  # its subclasses tell of a wrong statement
            raise
        raise RegistryUnavailable(f"the registry{_file(settings)} cannot be read: {error.orig}") from error
    finally:
        engine.dispose()


def _file(settings: Settings) -> str:
    """Where it is, unless that is a URL, which may hold a password."""
    return f" {settings.sql_url.database}" if settings.database_url is None else ""


def current_revision(connection: Connection) -> str | None:
    """The migration the database stands at, None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """The newest migration this code knows."""
    return ScriptDirectory(str(scripts_folder())).get_current_head()


def _move(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    current = current_revision(connection)
    target = script.get_current_head() if revision == "head" else revision
    known = [step.revision for step in script.walk_revisions()]  # newest first
    down = revision == "base" or (current in known and target in known and known.index(target) > known.index(current))
    (command.downgrade if down else command.upgrade)(config, revision)
