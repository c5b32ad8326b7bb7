"""The mark of connections whose transactions only read, for both databases."""

from __future__ import annotations

from sqlalchemy import Connection, Engine

_OPTION = "headmap_read_only"


def readers(engine: Engine) -> Engine:
    """The same engine, for transactions that only read."""
    return engine.execution_options(**{_OPTION: True})


def only_reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_OPTION, False))
