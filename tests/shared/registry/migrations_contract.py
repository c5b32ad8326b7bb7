"""Migrations up, down and up again with data in place, on whatever database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from headmap.errors import RegistryUnavailable
from headmap.registry.migrations import current_revision, head_revision, migrate, scripts_folder
from headmap.registry.repository import list_maps
from headmap.registry.session import Database, open_database
from headmap.registry.tables import Base, JobState
from headmap.settings import Settings
from tests.shared.jobs import contract


def finished_job(database: Database) -> str:
    job = contract.make_job(database)
    for number in range(contract.SHARDS):
        contract.finish(database, contract.held(database, job, number))
    return job


def revisions() -> list[str]:
    """Newest first."""
    return [step.revision for step in ScriptDirectory(str(scripts_folder())).walk_revisions()]


class MigrationContract:
    def test_the_scripts_make_the_tables_the_code_knows(self, settings: Settings) -> None:
        migrate(settings)
        database = open_database(settings)
        with database.engine.connect() as connection:
            assert current_revision(connection) == head_revision()
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
        database.close()

    def test_a_registry_without_its_tables_is_away(self, settings: Settings) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = open_database(settings)
        with pytest.raises(RegistryUnavailable), database.read() as session:
            list_maps(session)
        database.close()

    def test_again_changes_nothing_and_keeps_the_data(self, settings: Settings) -> None:
        migrate(settings)
        database = open_database(settings)
        job = finished_job(database)
        before = contract.checksum(database, job)
        migrate(settings)
        assert contract.checksum(database, job) == before
        database.close()

    def test_down_to_nothing_and_up_again_with_data_in_place(self, settings: Settings) -> None:
        migrate(settings)
        database = open_database(settings)
        finished_job(database)
        database.close()
        migrate(settings, "base")
        database = open_database(settings)
        with database.engine.connect() as connection:
            assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
        database.close()
        migrate(settings)
        database = open_database(settings)
        job = finished_job(database)
        assert contract.read_job(database, job).state is JobState.SUCCEEDED
        database.close()

    def test_each_step_back_and_forth_keeps_jobs_and_maps(self, settings: Settings) -> None:
        migrate(settings)
        database = open_database(settings)
        job = finished_job(database)
        before = contract.checksum(database, job)
        for revision in revisions()[1:]:  # newest first
            migrate(settings, revision)
            with database.engine.connect() as connection:
                assert current_revision(connection) == revision
                assert connection.execute(text("SELECT count(*) FROM maps")).scalar_one() == 1
            database.close()
            migrate(settings)
            assert contract.checksum(database, job) == before
            assert contract.read_job(database, job).done == contract.PARAMS.pages
        assert contract.finish(database, contract.held(database, contract.make_job(database), 0))
        database.close()

    def test_processes_that_start_together_migrate_once(self, settings: Settings) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(migrate, [settings] * 4))
        database = open_database(settings)
        finished_job(database)
        database.close()
