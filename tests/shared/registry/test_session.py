"""What a transaction promises, and what a registry that is away looks like."""

from __future__ import annotations

import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from headmap.errors import RegistryBroken, RegistryUnavailable
from headmap.registry.datasets import add_dataset, remove_dataset
from headmap.registry.migrations import migrate, start_fault
from headmap.registry.session import Database, open_database, open_engine, utc_now
from headmap.registry.tables import Alias, DatasetPage, Job, Map
from headmap.settings import Settings
from tests.shared.jobs import steps


def test_a_raising_block_changes_nothing(database: Database) -> None:
    job = steps.make_job(database)

    def interrupted() -> None:
        with database.write() as session:
            session.get(Job, job).error = "changed"
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert steps.read_job(database, job).error is None


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(Alias(model="m", alias="a", map_id="nowhere", updated_at=datetime.now(UTC)))


def test_times_are_utc_whatever_zone_they_come_in(database: Database) -> None:
    job = steps.make_job(database)
    noon = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with database.write() as session:
        row = session.get(Job, job)
        row.created_at = noon
    with database.read() as session:
        assert session.get(Job, job).created_at == datetime(2030, 1, 1, 10, tzinfo=UTC)
        assert utc_now(session).tzinfo is UTC


def test_times_without_a_zone_are_refused(database: Database) -> None:
    with database.read() as session, pytest.raises(Exception, match="needs its zone"):
        session.execute(select(Map).where(Map.created_at == datetime(2030, 1, 1)))


def test_writers_wait_for_each_other(database: Database) -> None:
    def count_up(_: int) -> None:
        with database.write() as session:
            value = session.scalar(text("SELECT value FROM counter"))
            session.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})

    with database.write() as session:
        session.execute(text("CREATE TABLE counter (value INTEGER)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_up, range(60)))
    with database.read() as session:
        assert session.scalar(text("SELECT value FROM counter")) == 60


def test_those_who_open_one_file_at_once_all_get_it(tmp_path: Path) -> None:
    """SQLite refuses to turn the write-ahead log on, whatever the timeout, while another connection is at it."""
    together = Barrier(6)

    def open_it(folder: Path) -> None:
        engine = open_engine(f"sqlite:///{folder / 'registry.sqlite3'}")
        together.wait()
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (a)")
            connection.commit()
        engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        for turn in range(40):
            folder = tmp_path / str(turn)
            folder.mkdir()
            list(pool.map(open_it, [folder] * 6))


def test_a_reader_waits_for_no_writer(database: Database) -> None:
    with database.write() as writer:
        writer.execute(text("CREATE TABLE busy (value INTEGER)"))
        with database.read() as reader:
            assert reader.scalars(select(Map.id)).all() == []


def test_a_registry_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    closed = open_database(Settings(data_dir=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none"))
    with pytest.raises(RegistryUnavailable, match="does not answer"), closed.read() as session:
        session.execute(select(Map.id))
    with pytest.raises(RegistryUnavailable):
        closed.patiently(lambda session: session.execute(select(Map.id)), seconds=0.2)


def test_a_registry_without_tables_is_unavailable(tmp_path: Path) -> None:
    empty = open_database(Settings(data_dir=tmp_path))
    with pytest.raises(RegistryUnavailable), empty.read() as session:
        session.execute(select(Map.id))
    empty.close()


def test_patience_repeats_until_the_registry_is_back(database: Database) -> None:
    calls = []

    def work(session: object) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise RegistryUnavailable("away")
        return len(calls)

    assert database.patiently(work, seconds=5) == 3


def test_a_file_that_is_removed_or_replaced_is_let_go(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    moved = settings.data_dir.with_name("elsewhere")
    settings.data_dir.rename(moved)
    for use in (database.read, database.write):
        with pytest.raises(RegistryUnavailable), use() as session:
            session.execute(text("SELECT 1 FROM jobs"))
    settings.data_dir.mkdir()
    with pytest.raises(RegistryUnavailable, match="no such table"), database.write() as session:
        session.execute(text("SELECT 1 FROM jobs"))
    shutil.rmtree(settings.data_dir)
    moved.rename(settings.data_dir)
    assert steps.read_job(database, job).id == job, "it is there again"


def test_a_damaged_file_is_told_as_such_at_every_use(database: Database, settings: Settings) -> None:
    steps.make_job(database)
    database.close()
    file = settings.data_dir / "registry.sqlite3"
    for name in ("-wal", "-shm"):
        file.with_name(file.name + name).unlink(missing_ok=True)
    for damaged in (b"junk" * 1000, file.read_bytes()[:4096] + b"\xff" * 100_000):
        file.write_bytes(damaged)
        for use in (database.read, database.write):
            with pytest.raises(RegistryBroken, match=r"damaged .* backup"), use() as session:
                session.execute(text("SELECT count(*) FROM jobs")).all()
        with pytest.raises(RegistryBroken):
            migrate(settings)
        assert "damaged" in (start_fault(settings) or "")
        assert "\n" not in (start_fault(settings) or "")
        database.close()


def fill(database: Database) -> None:
    with database.write() as session:
        record, _ = add_dataset(session, "mine", [], pages=40, words=1, questions=0, size=1, checksum="c")
        for number in range(40):
            page = DatasetPage(dataset_id=record.id, number=number, record="{}", picture=os.urandom(2**17))
            session.add(page)


def size_on_disk(settings: Settings) -> int:
    return sum(path.stat().st_size for path in settings.data_dir.glob("registry.sqlite3*") if "shm" not in path.name)


@pytest.mark.parametrize("made_before", [False, True])
def test_what_is_removed_gives_its_space_back(tmp_path: Path, made_before: bool) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    if made_before:
        with closing(sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA auto_vacuum=NONE")
            connection.execute("VACUUM")
        migrate(settings)
    database = open_database(settings)
    before = size_on_disk(settings)
    fill(database)
    assert size_on_disk(settings) > before + 5 * 2**20
    with database.write() as session:
        remove_dataset(session, "mine")
    database.shrink()
    assert size_on_disk(settings) < before + 2**20
    database.close()
