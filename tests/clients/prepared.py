"""The registry of the servers that clients call: one policy, which the tests know as `documents`."""

from __future__ import annotations

from pathlib import Path

from headmap.registry.migrations import migrate
from headmap.registry.policies import put_policy
from headmap.registry.session import open_database
from headmap.settings import DEMO_MODEL, Settings


def prepare_registry(folder: Path) -> None:
    settings = Settings(data_dir=folder)
    migrate(settings)
    database = open_database(settings)
    with database.write() as session:
        put_policy(session, DEMO_MODEL, "documents", {"method": "snapkv", "ratio": 0.9}, by=None)
    database.close()
