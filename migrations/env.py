"""Alembic's entry: on the connection `headmap.registry.migrations.migrate` hands over, or one of its own."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from headmap.registry.session import open_engine
from headmap.registry.tables import Base
from headmap.settings import load_settings


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with open_engine(load_settings().sql_url, seconds=None).connect() as own:
        run(own)
        own.commit()
