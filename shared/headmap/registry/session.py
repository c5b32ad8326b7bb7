"""Open the registry: SQLite in one file, or PostgreSQL 15 and newer. One `with` is one transaction."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Delete,
    Engine,
    Update,
    exc,
    func,
    make_url,
    select,
)
from sqlalchemy.orm import Session

from headmap.errors import RegistryBroken, RegistryUnavailable
from headmap.registry.read_only import readers
from headmap.registry.sqlite import open_sqlite, vacuum
from headmap.settings import Settings

T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{32}")
_STATEMENT_SECONDS = 10.0
_UNDEFINED_TABLE = "42P01"
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


class Database:
    """The registry's connections. Open one per process, after a fork: connections do not survive it.

    Every method raises RegistryUnavailable when the database cannot be reached, is locked for too long or lacks its
    tables.
    """

    def __init__(self, url: URL | str, **options: Any) -> None:
        """`options` as `open_engine` has them."""
        self.engine = open_engine(url, **options)
        self._file = self.engine.url.database
        self._readers = readers(self.engine)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that only reads; PostgreSQL refuses writes. On SQLite it does not wait for writers."""
        with _translated(self._file), Session(self._readers) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session. Its transaction commits at the end of the block, or rolls back if the block raises."""
        with (
            _translated(self._file),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def patiently(self, work: Callable[[Session], T], *, seconds: float = 30.0) -> T:
        """Run `work` in a write transaction. While the registry is unavailable, retry for up to `seconds`.

        `work` must be repeatable: it runs a second time if the answer to its commit was lost.
        """
        deadline = time.monotonic() + seconds
        delay = 0.1
        while True:
            try:
                with self.write() as session:
                    return work(session)
            except RegistryUnavailable:
                if time.monotonic() + delay > deadline:
                    raise
                time.sleep(delay * (0.5 + random.random()))
                delay = min(2 * delay, 3.0)

    def shrink(self) -> None:
        """Give the space of removed rows back to the file system. Does nothing on PostgreSQL, which does so itself.

        Runs in steps, so that writers can work in between. Space that readers still use remains for the next call.
        Raises RegistryUnavailable.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with _translated(self._file), closing(self.engine.raw_connection()) as connection:
            try:
                vacuum(connection.cursor())
            except sqlite3.Error as error:  # sqlalchemy does not wrap errors of a raw connection
                raise RegistryUnavailable(f"the registry's file is not made smaller: {_reason(error)}") from error

    def close(self) -> None:
        self.engine.dispose()


def open_database(settings: Settings, *, connections: int = 10) -> Database:
    """Open the registry that the settings name. Makes the data directory for SQLite.

    `connections`: how many connections to PostgreSQL stay open while nobody uses them.
    """
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.sql_url, seconds=settings.database_seconds, connections=connections)


def open_engine(url: URL | str, *, seconds: float | None = _STATEMENT_SECONDS, connections: int = 10) -> Engine:
    """An engine for SQLite or PostgreSQL. `seconds`: PostgreSQL's longest statement; None, for migrations: no limits.

    `connections` as in `open_database`.
    """
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        return open_sqlite(parsed, limited=seconds is not None)
    from headmap.registry.postgres import open_postgres  # SQLite needs no libpq

    return open_postgres(parsed, seconds=seconds, connections=connections)


def changed(session: Session, statement: Update | Delete) -> int:
    """Run an UPDATE or DELETE and return how many rows it changed; objects of the session do not see it."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], result).rowcount


def is_id(text: str) -> bool:
    """Whether `text` can be an id. Other strings need no query, and PostgreSQL would refuse some of them."""
    return _ID.fullmatch(text) is not None


def utc_now(session: Session | Connection) -> datetime:
    """Return the time of the database's clock, so that leases do not depend on the workers' clocks."""
    bind = session.get_bind() if isinstance(session, Session) else session
    if bind.dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


@contextmanager
def _translated(file: str | None) -> Iterator[None]:
    try:
        yield
    except _AWAY as error:
        raise RegistryUnavailable(f"the registry does not answer: {_reason(error)}") from error
    except exc.DBAPIError as error:
        if is_broken(error):
            raise broken(error, file) from error
        # SQLite calls a missing table an operational error, which is caught above
        if getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE:
            raise RegistryUnavailable("the registry lacks its tables: run the migrations") from error
        if not error.connection_invalidated:
            raise
        raise RegistryUnavailable(f"the registry went away: {_reason(error)}") from error


def is_broken(error: exc.DBAPIError) -> bool:
    """Whether the error says that SQLite's file is damaged or is not a database."""
    return type(error.orig) is sqlite3.DatabaseError


def broken(error: Exception, file: str | None) -> RegistryBroken:
    return RegistryBroken(
        f"the registry's file {file} is damaged ({_reason(error)}): stop all that uses it, put a backup in its place, "
        "or move it away to begin anew"
    )


def _reason(error: Exception) -> str:
    """Return the first line of the driver's message. It contains no password and no statement."""
    original = getattr(error, "orig", None) or error
    return str(original).strip().split("\n")[0][:200]
