"""Backup and restore of the registry, with the commands of docs/backup.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from headmap.blobs.location import open_blobs
from headmap.datasets.sources import open_dataset
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.registry.tables import JobState
from headmap.settings import Settings
from tests.integration.servers import Postgres
from tests.shared.datasets.uploads_contract import add, remove, words
from tests.shared.jobs import steps

ROOT = Path(__file__).parents[2]
DUMP = ["--format=custom"]
RESTORE = ["--clean", "--if-exists", "--exit-on-error"]
PACK, UNPACK = ["-cf", "-", "."], ["-xf", "-"]

pytestmark = pytest.mark.integration


def test_a_restored_registry_has_its_maps_and_goes_on_with_its_jobs(settings: Settings, postgres: Postgres) -> None:
    migrate(settings)
    database = open_database(settings)
    whole, half = steps.make_job(database), steps.make_job(database)
    for number in range(steps.SHARDS):
        steps.finish(database, steps.held(database, whole, number))
    steps.finish(database, steps.held(database, half, 0))
    steps.held(database, half, 1, "at work when the dump was taken")
    before = steps.checksum(database, whole)
    blobs = open_blobs(settings)
    add(database, blobs)
    pages = words(open_dataset("mine", settings, database=database))

    dump = subprocess.run(
        [postgres.program("pg_dump"), "-d", settings.database_url, *DUMP], capture_output=True, check=True
    )
    folder = ["tar", "-C", blobs.place]
    copy = subprocess.run([*folder, *PACK], capture_output=True, check=True)
    remove(database, blobs)
    assert list(blobs.stored()) == []
    database.close()
    migrate(settings, "base")
    restore = [postgres.program("pg_restore"), "-d", settings.database_url, *RESTORE]
    subprocess.run(restore, input=dump.stdout, capture_output=True, check=True)
    migrate(settings)

    subprocess.run([*folder, *UNPACK], input=copy.stdout, check=True)

    database = open_database(settings)
    assert words(open_dataset("mine", settings, database=database)) == pages
    assert steps.checksum(database, whole) == before
    steps.let_run_out(database, half)
    for number in (1, 2):
        steps.finish(database, steps.held(database, half, number))
    assert steps.read_job(database, half).state is JobState.SUCCEEDED
    assert steps.checksum(database, half) == before
    database.close()


def test_the_page_tells_these_commands() -> None:
    page = (ROOT / "docs" / "backup.md").read_text()
    assert f"pg_dump -U headmap -d headmap {' '.join(DUMP)}" in page
    assert f"pg_restore -U headmap -d headmap {' '.join(RESTORE)}" in page
    assert f"tar -C /blobs {' '.join(PACK)} > blobs.tar" in page
    assert f"tar -C /blobs {' '.join(UNPACK)} < blobs.tar" in page
