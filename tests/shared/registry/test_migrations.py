"""Migrations on SQLite; tests/integration has them on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from headmap.errors import RegistryUnavailable
from headmap.registry.migrations import migrate, scripts_folder
from headmap.settings import Settings
from tests.shared.registry.migrations_contract import MigrationContract


class TestMigrationsOnSqlite(MigrationContract):
    pass


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable):
        migrate(Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none"))


def test_scripts_are_named_by_date_and_can_be_undone() -> None:
    for script in (scripts_folder() / "versions").glob("*.py"):
        date, _, slug = script.stem.partition("_")
        assert date.isdigit()
        assert len(date) == 8
        assert slug
        assert "def downgrade() -> None:\n    pass" not in script.read_text()
