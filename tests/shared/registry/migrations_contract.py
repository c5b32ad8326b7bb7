"""Migrations up, down and up again with data in place, on whatever database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import delete, inspect, text
from sqlalchemy.exc import DBAPIError

from headmap.errors import RegistryUnavailable
from headmap.registry.jobs import add_job
from headmap.registry.keys import create_key
from headmap.registry.maps import list_maps
from headmap.registry.migrations import current_revision, head_revision, migrate, scripts_folder
from headmap.registry.policies import delete_policy, put_policy
from headmap.registry.session import Database, open_database, utc_now
from headmap.registry.tables import (
    Base,
    Blob,
    Dataset,
    DatasetPack,
    DatasetPage,
    DeletedMap,
    Evaluation,
    IdempotencyKey,
    JobState,
)
from headmap.registry.workers import report_models
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO


def finished_job(database: Database) -> str:
    job = steps.make_job(database)
    for number in range(steps.SHARDS):
        steps.finish(database, steps.held(database, job, number))
    return job


def fill_every_table(database: Database) -> tuple[str, str]:
    """A job that is done and one at work, and all else that a registry holds."""
    done = finished_job(database)
    with database.write() as session:
        half = add_job(session, INFO, steps.PARAMS, shard_pages=4, announce=9, force=True, idempotency_key="key")[0]
        create_key(session, "a key")
        put_policy(session, INFO.name, "documents", {"method": "full"}, by="key ops")
        delete_policy(session, INFO.name, "documents", by=None)
        put_policy(session, INFO.name, "documents", {"method": "snapkv", "ratio": 0.2}, by=None)
        now = utc_now(session)
        session.add(Dataset(id="d", name="mine", pages=1, words=2, questions=3, bytes=4, checksum="c", created_at=now))
        session.flush()
        asked = {"methods": ["full"], "ratios": [], "selectors": ["snapkv"], "metric": "exact", "margin": 0.5}
        session.add(Evaluation(job_id=half, result={"points": []}, **asked))
        session.add(DatasetPage(dataset_id="d", number=0, record="{}", picture=b"png"))
        session.add(Blob(id="b", checksum="c", bytes=3, claimed_at=now))
        session.flush()
        session.add(DatasetPack(dataset_id="d", first=1, pages=1, blob_id="b"))
        session.add(DeletedMap(model=INFO.name, version=9, map_id="0" * 32, deleted_at=now))
        report_models(session, "worker", "cpu", {(INFO.name, INFO.revision)})
    steps.finish(database, steps.held(database, half, 0))
    return done, half


def rows(database: Database) -> dict[str, list[dict[str, object]]]:
    """What every table holds, as the database has it."""
    with database.engine.connect() as connection:
        names = set(inspect(connection).get_table_names()) - {"alembic_version"}
        return {
            name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name}")).mappings()] for name in names
        }


def common(ours: list[dict[str, object]], theirs: list[dict[str, object]]) -> list[list[str]]:
    """Our rows in the columns that they have too, sorted, without what tells how far a shard is."""
    moving = {"state", "pages_done", "enqueued_at"} if ours and "lease_until" in ours[0] else set()
    columns = sorted((set(ours[0]) & set(theirs[0])) - moving) if ours and theirs else []
    return sorted([f"{name}={row[name]!r}" for name in columns] for row in ours)


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
        before = steps.checksum(database, job)
        migrate(settings)
        assert steps.checksum(database, job) == before
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
        assert steps.read_job(database, job).state is JobState.SUCCEEDED
        database.close()

    def test_each_step_back_and_forth_keeps_jobs_and_maps(self, settings: Settings) -> None:
        migrate(settings)
        database = open_database(settings)
        job = finished_job(database)
        before = steps.checksum(database, job)
        for revision in revisions()[1:]:  # newest first
            migrate(settings, revision)
            with database.engine.connect() as connection:
                assert current_revision(connection) == revision
                assert connection.execute(text("SELECT count(*) FROM maps")).scalar_one() == 1
            database.close()
            migrate(settings)
            assert steps.checksum(database, job) == before
            assert steps.read_job(database, job).done == steps.PARAMS.pages
        assert steps.finish(database, steps.held(database, steps.make_job(database), 0))
        database.close()

    def test_one_by_one_down_and_up_what_both_ends_can_hold_stays_as_it_is(self, settings: Settings) -> None:
        """Rows in every table; of a job at work only its shards are scored again, as the script of looks says."""
        migrate(settings)
        database = open_database(settings)
        done, half = fill_every_table(database)
        before = steps.checksum(database, done)
        seen = rows(database)
        assert {name for name, found in seen.items() if not found} == set()
        database.close()
        with pytest.raises(RegistryUnavailable, match="datasets lie in the blob store"):
            migrate(settings, "base")
        database = open_database(settings)
        with database.write() as session:
            session.execute(delete(DatasetPack))
        seen = rows(database)
        for revision in [*revisions()[1:], *reversed(revisions()[:-1])]:  # down to the first, up to the newest
            database.close()
            migrate(settings, revision)
            database = open_database(settings)
            found = rows(database)
            for table in set(seen) & set(found):
                assert common(found[table], seen[table]) == common(seen[table], found[table]), (revision, table)
            if set(found) > set(seen):
                # The time of the next sweep is no data: the script writes it.
                assert all(found[table] == [] for table in set(found) - set(seen) - {"sweeps"})
            seen = found
        assert steps.checksum(database, done) == before
        for number in steps.open_shards(database, half):
            assert steps.finish(database, steps.held(database, half, number))
        assert steps.checksum(database, half) == before
        database.close()
        for revision in [*revisions()[1:], "base", *reversed(revisions())]:
            migrate(settings, revision)
        database = open_database(settings)
        assert {name for name, found in rows(database).items() if found} == {"sweeps"}
        finished_job(database)
        database.close()

    def test_jobs_at_work_go_on_to_the_calm_map_after_a_step_back_and_forth(self, settings: Settings) -> None:
        """One in its third round, with a total of the former ones; one whose fold is due."""
        migrate(settings)
        database = open_database(settings)
        jobs = {}
        for params in (replace(steps.AUTO, seed=1), steps.PARAMS):
            calm = steps.make_job(database, params=params)
            steps.read_on(database, calm)
            jobs[steps.make_job(database, params=params)] = calm
        rounds, due = jobs
        for number in range(4):
            steps.finish(database, steps.held(database, rounds, number))
        for number in range(steps.SHARDS):
            steps.score(database, steps.held(database, due, number))
        database.close()
        before = "20261129_policies"
        migrate(settings, before)
        database = open_database(settings)
        with database.engine.connect() as connection:
            states = connection.execute(text("SELECT number, state FROM shards WHERE job_id = :id"), {"id": due})
            assert sorted(tuple(row) for row in states) == [(0, "done"), (1, "done"), (2, "queued")]
            done = connection.execute(text("SELECT pages_done FROM jobs WHERE id = :id"), {"id": due})
            assert done.scalar_one() == 8
        database.close()
        migrate(settings)
        database = open_database(settings)
        for job, calm in jobs.items():
            steps.read_on(database, job)
            assert steps.checksum(database, job) == steps.checksum(database, calm)
            found = steps.read_job(database, job)
            assert found.done == found.total == steps.read_job(database, calm).total

    def test_a_step_that_fails_leaves_the_earlier_ones_in_place(self, settings: Settings) -> None:
        migrate(settings, revisions()[-1])
        database = open_database(settings)
        with database.write() as session:
            session.execute(text("CREATE TABLE policy_versions (a INTEGER)"))
        with pytest.raises((RegistryUnavailable, DBAPIError), match="policy_versions"):
            migrate(settings)
        with database.engine.connect() as connection:
            assert current_revision(connection) == "20261129_job_progress"
        with database.write() as session:
            session.execute(text("DROP TABLE policy_versions"))
        migrate(settings)
        with database.engine.connect() as connection:
            assert current_revision(connection) == head_revision()

    def test_keys_of_before_scopes_may_everything_and_idempotency_keys_go_to_their_jobs_caller(
        self, settings: Settings
    ) -> None:
        before = revisions()[revisions().index("20261129_scopes") + 1]
        migrate(settings, before)
        database = open_database(settings)
        with database.write() as session:
            filled = "INSERT INTO {} ({}) VALUES ({})"
            job = {"id": "j", "key_name": "ci", "state": "queued", "model": "m", "revision": "r", "architecture": "a"}
            job |= {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "dataset": "d", "pages": 1, "rule": "aligned"}
            job |= {"seed": 0, "max_new_tokens": 1, "shard_pages": 1, "created_at": utc_now(session)}
            kept = {"key": "same", "request_hash": "h", "job_id": "j", "created_at": utc_now(session)}
            api_key = {"id": "k", "name": "ci", "digest": "00", "created_at": utc_now(session)}
            for table, row in (("jobs", job), ("idempotency_keys", kept), ("api_keys", api_key)):
                names = ", ".join(row), ", ".join(f":{name}" for name in row)
                session.execute(text(filled.format(table, *names)), row)
        database.close()
        migrate(settings)
        database = open_database(settings)
        assert [row["scopes"] for row in rows(database)["api_keys"]] == ["admin"]
        assert [(row["key_name"], row["key"]) for row in rows(database)["idempotency_keys"]] == [("ci", "same")]
        with database.write() as session:
            later = utc_now(session) + timedelta(seconds=1)
            session.add(IdempotencyKey(key_name="", key="same", request_hash="g", job_id="j", created_at=later))
        database.close()
        migrate(settings, before)
        database = open_database(settings)
        assert [row["request_hash"] for row in rows(database)["idempotency_keys"]] == ["h"]
        database.close()

    def test_processes_that_start_together_migrate_once(self, settings: Settings) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(migrate, [settings] * 4))
        database = open_database(settings)
        finished_job(database)
        database.close()
