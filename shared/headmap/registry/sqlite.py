"""SQLite in one file, for several processes of one machine: write-ahead log, foreign keys, and writers that wait."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry

from headmap.registry.read_only import only_reads

_WAIT_SECONDS = 30.0
_LONG_WAIT_SECONDS = 86_400.0
_PAGES_AT_ONCE = 2000  # of 4 KiB


def open_sqlite(url: URL, *, limited: bool = True) -> Engine:
    """An engine for the file of `url`. Its writers wait for each other, half a minute where that is `limited`."""
    engine = create_engine(url, connect_args={"timeout": _WAIT_SECONDS if limited else _LONG_WAIT_SECONDS})
    event.listen(engine, "connect", _prepare)
    if url.database not in (None, "", ":memory:"):
        _watch_file(engine, str(url.database))
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin does
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def vacuum(cursor: Any) -> None:
    """Give the pages of removed rows back to the file system, in steps. Raises sqlite3.Error."""
    free = None
    while (left := cursor.execute("PRAGMA freelist_count").fetchone()[0]) and left != free:
        cursor.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
        free = left
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _use_wal(cursor: Any) -> None:
    """Turn the write-ahead log on. SQLite refuses this at once, whatever the timeout, while anybody reads or writes."""
    until = time.monotonic() + _WAIT_SECONDS
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


def _begin(connection: Connection) -> None:
    """Take the write lock at the start for writers. SQLite refuses to upgrade a reader, without waiting."""
    connection.exec_driver_sql("BEGIN" if only_reads(connection) else "BEGIN IMMEDIATE")
