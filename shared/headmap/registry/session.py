"""Open the registry: SQLite in one file, or PostgreSQL 15 and newer. One `with` is one transaction."""

from __future__ import annotations

import os
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
    create_engine,
    event,
    exc,
    func,
    make_url,
    select,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from headmap.errors import RegistryBroken, RegistryUnavailable
from headmap.settings import Settings

T = TypeVar("T")

_READ = "headmap_read"
_ID = re.compile(r"[0-9a-f]{32}")
# A stopped process must not hold a row for ever; no query of ours takes this long.
_POSTGRES_OPTIONS = "-c lock_timeout=15s -c statement_timeout=60s -c idle_in_transaction_session_timeout=20s"
_SQLITE_WAIT_SECONDS = 30.0
_PAGES_AT_ONCE = 2000  # of 4 KiB
_UNDEFINED_TABLE = "42P01"
_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


class Database:
    """The registry's connections. Open one per process, after a fork: connections do not survive it.

    Every method raises RegistryUnavailable when the database cannot be reached, is locked for too long or lacks its
    tables.
    """

    def __init__(self, url: URL | str) -> None:
        self.engine = open_engine(url)
        self._file = self.engine.url.database
        self._readers = self.engine.execution_options(**{_READ: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that only reads. On SQLite it does not wait for writers."""
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
                _vacuum(connection.cursor())
            except sqlite3.Error as error:  # sqlalchemy does not wrap errors of a raw connection
                raise RegistryUnavailable(f"the registry's file is not made smaller: {_reason(error)}") from error

    def close(self) -> None:
        self.engine.dispose()


def open_database(settings: Settings) -> Database:
    """Open the registry that the settings name. Makes the data directory for SQLite."""
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Database(settings.sql_url)


def open_engine(url: URL | str, **options: Any) -> Engine:
    """An engine for `url`, with SQLite's WAL, foreign keys and waiting writers, or psycopg 3 for PostgreSQL."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": 5, "options": _POSTGRES_OPTIONS, "application_name": "headmap"}
        if "poolclass" not in options:
            options |= {"pool_pre_ping": True, "pool_timeout": 10, "pool_size": 10, "max_overflow": 10}
        return create_engine(parsed, connect_args=arguments, **options)
    engine = create_engine(parsed, connect_args={"timeout": _SQLITE_WAIT_SECONDS}, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    if parsed.database not in (None, "", ":memory:"):
        _watch_file(engine, str(parsed.database))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


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


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _vacuum(cursor: Any) -> None:
    free = None
    while (left := cursor.execute("PRAGMA freelist_count").fetchone()[0]) and left != free:
        cursor.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
        free = left
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _use_wal(cursor: Any) -> None:
    """Turn the write-ahead log on. SQLite refuses this at once, whatever the timeout, while anybody reads or writes."""
    until = time.monotonic() + _SQLITE_WAIT_SECONDS
    while True:
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")  # only possible while the file is empty
                cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _watch_file(engine: Engine, path: str) -> None:
    """Drop a connection if its file was removed or replaced: nobody would ever read its writes."""

    def file() -> tuple[int, int] | None:
        try:
            about = os.stat(path)
        except OSError:
            return None
        return about.st_dev, about.st_ino

    def note(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["file"] = file()

    def look(_connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info["file"] != file():
            raise exc.DisconnectionError(f"{path} has been removed or replaced")

    event.listen(engine, "connect", note)
    event.listen(engine, "checkout", look)


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start for writers. SQLite refuses to upgrade a reader, without waiting."""
    reads = connection.get_execution_options().get(_READ, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


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
