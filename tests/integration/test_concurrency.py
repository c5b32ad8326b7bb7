"""Requests that meet in PostgreSQL: equal jobs, equal keys, and maps of one model imported at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import event

from headmap.head_scores import HeadScores
from headmap.registry import maps
from headmap.registry.bundled import file_bundled_map
from headmap.registry.jobs import JobRecord, list_jobs
from headmap.registry.maps import Provenance
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from tests.shared.jobs.fakes import INFO, CountingBroker
from tests.shared.jobs.steps import PARAMS, submit

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("force", "key"), [(False, None), (False, "k"), (True, "k")])
def test_equal_requests_at_one_moment_get_one_job(
    database: Database, settings: Settings, force: bool, key: str | None
) -> None:
    broker = CountingBroker()

    def start(seed: int) -> tuple[JobRecord, bool]:
        params = replace(PARAMS, seed=seed)
        name = key and f"{key}{seed}"
        return submit(database, broker, settings, INFO, params, force=force, idempotency_key=name)

    rounds = 4
    for seed in range(rounds):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(start, [seed] * 12))
        assert len({job.id for job, _ in answers}) == 1
        assert [created for _, created in answers].count(True) == 1
    assert len(broker.sent) == 3 * rounds
    with database.read() as session:
        assert len(list_jobs(session).items) == rounds


def test_an_equal_job_committed_between_look_and_write_stands(database: Database, settings: Settings) -> None:
    other = open_database(settings)
    meanwhile: list[str] = []

    def interleave(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and "active_key = " in statement and not meanwhile:
            meanwhile.append(submit(other, CountingBroker(), settings, INFO, PARAMS)[0].id)

    event.listen(database.engine, "after_cursor_execute", interleave)
    job, created = submit(database, CountingBroker(), settings, INFO, PARAMS)
    other.close()
    assert (meanwhile, created) == ([job.id], False)


def test_maps_imported_at_once_are_numbered_and_one_is_default(database: Database) -> None:
    provenance = Provenance(model="m", revision=None, architecture=None, dataset="import")

    def add(_: int) -> str:
        with database.write() as session:
            return maps.add_map(session, provenance, HeadScores(np.ones((2, 2)), 1), promote="auto", by=None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    with database.read() as session:
        filed = maps.list_maps(session, model="m").items
    assert sorted(record.version for record in filed) == list(range(1, 25))
    assert [record.aliases for record in filed].count(("default",)) == 1


def test_the_bundled_map_filed_by_many_at_once_is_one(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(file_bundled_map, [database] * 16))
    with database.read() as session:
        assert [record.aliases for record in maps.list_maps(session).items] == [("bundled", "default")]


def test_an_alias_moved_by_many_at_once_points_at_one_map(database: Database) -> None:
    provenance = Provenance(model="m", revision=None, architecture=None, dataset="import")
    with database.write() as session:
        scores = HeadScores(np.ones((2, 2)), 1)
        ids = [maps.add_map(session, provenance, scores, promote="auto", by=None) for _ in range(8)]

    def point(map_id: str) -> None:
        with database.write() as session:
            maps.set_alias(session, map_id, "stable", by=None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(point, ids * 3))
    with database.read() as session:
        assert sum("stable" in record.aliases for record in maps.list_maps(session).items) == 1
