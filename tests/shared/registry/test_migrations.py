"""Migrations on SQLite; tests/integration has them on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from headmap.errors import RegistryUnavailable
from headmap.registry.bundled import use_registry
from headmap.registry.migrations import (
    check_revision,
    head_revision,
    migrate,
    read_revision,
    scripts_folder,
    start_fault,
)
from headmap.registry.session import open_database
from headmap.settings import Settings
from tests.shared.registry.migrations_contract import MigrationContract, revisions


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


def standing_at(settings: Settings, revision: str) -> None:
    """A registry that was migrated by other code, to a revision that ours may not know."""
    migrate(settings)
    if revision in revisions():
        migrate(settings, revision)
        return
    database = open_database(settings)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
    database.close()


@pytest.mark.parametrize(("revision", "told"), [(revisions()[1], "older than this code"), ("9999", "does not know")])
def test_a_registry_of_another_version_is_refused_in_a_line_and_stays_as_it_is(
    tmp_path: Path, revision: str, told: str
) -> None:
    settings = Settings(data_dir=tmp_path)
    standing_at(settings, revision)
    for look in (check_revision, use_registry):
        with pytest.raises(RegistryUnavailable, match=told) as refused:
            look(settings)
        assert "\n" not in refused.value.detail
    assert told in str(start_fault(settings))
    assert read_revision(settings) == revision
    if revision == "9999":
        with pytest.raises(RegistryUnavailable, match=told):
            migrate(settings)


def test_a_first_registry_is_made_in_the_data_directory_and_nowhere_else(tmp_path: Path) -> None:
    ours = Settings(data_dir=tmp_path / "ours")
    shared = Settings(data_dir=tmp_path / "ours", database_url=f"sqlite:///{tmp_path}/shared.sqlite3")
    assert read_revision(ours) is None
    assert not ours.data_dir.exists()
    use_registry(ours)
    assert read_revision(ours) == head_revision()
    with pytest.raises(RegistryUnavailable, match="has no tables"):
        use_registry(shared)
    assert start_fault(shared) is None  # the chart's first install migrates after the services have started
    assert read_revision(shared) is None


def test_a_service_waits_for_a_registry_that_is_away(tmp_path: Path) -> None:
    away = Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    assert start_fault(away) is None
    with pytest.raises(RegistryUnavailable):
        check_revision(away)
