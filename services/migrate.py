"""Migrates the registry and files the bundled map in it: `python -m services.migrate`.

It also moves the pages of datasets out of the registry into the blob store, where an older release left them.

`python -m services.migrate base` migrates to another revision, and files nothing. `--pages-back` undoes the move:
do that before migrating to a revision that knows no blob store.
"""

from __future__ import annotations

import argparse
import logging
import sys

from alembic.util import CommandError
from sqlalchemy.exc import OperationalError

from headmap.datasets.moving import bring_back
from headmap.errors import DatasetUnavailable, RegistryUnavailable
from headmap.http.logs import setup_logging
from headmap.registry.bundled import prepare_registry
from headmap.registry.migrations import current_revision, migrate
from headmap.registry.session import open_database, open_engine
from headmap.settings import load_settings

logger = logging.getLogger("headmap.migrate")

REFUSED = "password authentication failed"
ADVICE = (
    "PostgreSQL keeps the password of its first start. If POSTGRES_PASSWORD came into .env later, take it out, or give "
    "PostgreSQL the same one: `docker compose exec postgres psql -U headmap -c '\\password'`; then `docker compose up`"
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", default="head", help="head, base, or a migration's revision")
    parser.add_argument("--show", action="store_true", help="only say where the registry stands")
    parser.add_argument("--pages-back", action="store_true", help="only put datasets' pages back into the registry")
    arguments = parser.parse_args(argv)
    settings = load_settings()
    setup_logging(settings, "migrate")
    try:
        if arguments.pages_back:
            database = open_database(settings)
            logger.info("%d pages are back in the registry", bring_back(database, settings))
            database.close()
        elif not arguments.show:
            if arguments.revision == "head":
                prepare_registry(settings)
            else:
                migrate(settings, arguments.revision)
        with open_engine(settings.sql_url).connect() as connection:
            logger.info("the registry stands at %s", current_revision(connection))
    except (RegistryUnavailable, DatasetUnavailable, OperationalError, CommandError) as error:
        logger.error("%s", error)
        if REFUSED in str(error):
            logger.error("%s", ADVICE)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
