"""A migrated SQLite registry of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headmap.registry.session import Database, open_database
from headmap.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", shard_pages=4, retry_seconds=0, lease_seconds=3)


@pytest.fixture
def database(settings: Settings, migrated: Callable[[Settings], None]) -> Iterator[Database]:
    migrated(settings)
    opened = open_database(settings)
    yield opened
    opened.close()
