"""PostgreSQL, directly or through a pooler such as PgBouncer, and never without a deadline.

A pooler in transaction mode gives each transaction another server connection. So nothing outlives a transaction: limits
are set when it begins, statements are not prepared, and advisory locks end with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from headmap.registry.read_only import only_reads

T = TypeVar("T")

_MOST_CONNECTIONS = 20
_POOL_SECONDS = 10.0
_BRIEF_SECONDS = 5.0  # for migrations; else half of a statement's
_LATE_SECONDS = 2.0
_IDLE_SECONDS = 20.0  # a stopped process must not hold a row for ever
_TCP = {
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}


class PatientConnection(psycopg.Connection[Any]):
    """A connection that waits for an answer until a deadline, and is closed when it passes.

    The server limits statements itself. The deadline is for a server that has stopped, or that a proxy cut off while it
    still acknowledges packets: TCP notices neither.
    """

    patience: float | None = None
    """Seconds to wait for the answer to a statement of a transaction; None waits for ever."""
    brief_patience = _BRIEF_SECONDS
    """The same outside a transaction, where there are only pings and BEGIN."""

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """Raises OperationalError when the deadline passes."""
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        seconds = self.brief_patience if idle else self.patience
        if seconds is None:
            return super().wait(gen, *args, **options)
        try:
            return super().wait(_until(time.monotonic() + seconds, gen), *args, **options)
        except TimeoutError:
            self.close()
            raise psycopg.OperationalError(f"no answer within {seconds:g} s") from None


def open_postgres(url: URL, *, seconds: float | None, connections: int) -> Engine:
    """An engine for `url`, whose query may have any parameter of libpq; it wins over ours.

    `seconds`: the longest time for one statement; the client waits two seconds longer for its answer. None sets no
    limit of any kind, for migrations.
    `connections`: how many stay open while nobody uses them, of at most 20.
    """
    brief = _BRIEF_SECONDS if seconds is None else seconds / 2
    ours = {"connect_timeout": math.ceil(brief), "application_name": "headmap", **_TCP}
    pool: dict[str, Any] = {"poolclass": NullPool}
    if connections:
        most = max(connections, _MOST_CONNECTIONS)
        pool = {"pool_size": connections, "max_overflow": most - connections}
        pool |= {"pool_pre_ping": True, "pool_timeout": _POOL_SECONDS}
    engine = create_engine(
        url,
        connect_args={name: value for name, value in ours.items() if name not in url.query},
        use_native_hstore=False,
        **pool,
    )
    limits = _limits(seconds, str(url.query.get("options", "")))

    def connect(_dialect: object, _record: object, args: tuple[Any, ...], options: dict[str, Any]) -> PatientConnection:
        # With autocommit the driver begins nothing by itself; `begin` does.
        connection = PatientConnection.connect(*args, **options, autocommit=True, prepare_threshold=None)
        connection.brief_patience = brief
        connection.patience = None if seconds is None else seconds + _LATE_SECONDS
        return connection

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {'READ ONLY' if only_reads(connection) else 'READ WRITE'}; {limits}")

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", begin)
    return engine


def _limits(seconds: float | None, options: str) -> str:
    """The statements that limit one transaction. Limits that `options` of the URL names stay as they are there."""
    limits = {
        "lock_timeout": 0.8 * (seconds or 0),  # before the statement's, so that the error says which it was
        "statement_timeout": seconds or 0,
        "idle_in_transaction_session_timeout": 0 if seconds is None else _IDLE_SECONDS,
    }
    ours = [name for name in limits if seconds is None or name not in options]
    return "; ".join(f"SET LOCAL {name} = {round(1000 * limits[name])}" for name in ours)


def _until(deadline: float, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """Hand on what `gen` waits for. The driver resumes it several times a second even if nothing arrives.

    Raises TimeoutError past the deadline.
    """
    ready: int | None = None
    try:
        while True:
            ready = yield next(gen) if ready is None else gen.send(ready)
            if not ready and time.monotonic() > deadline:
                raise TimeoutError
    except StopIteration as done:
        result: T = done.value
        return result
