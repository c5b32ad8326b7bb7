"""What the fold of a job promises, on whatever database: run on SQLite here and on PostgreSQL in tests/integration."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from headmap.jobs.kinds import KINDS, Settle
from headmap.jobs.leases import Lease, complete_fold, expire, release, renew
from headmap.jobs.results import stream_results
from headmap.jobs.runner import run_shard
from headmap.jobs.work import ShardScorer
from headmap.page_sums import PageSums
from headmap.registry.jobs import cancel_job, count_open_shards
from headmap.registry.session import Database
from headmap.registry.tables import FOLD, JobState, Shard, StoredResult
from headmap.settings import Settings
from headmap.tracing import NO_SPAN, Attributes, Kind, Span, Tracer
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import HEADS, LAYERS, FakeScorer
from tests.shared.jobs.steps import AUTO, PARAMS, SHARDS, held, make_job, read_job


def no_scorer() -> ShardScorer:
    raise ImportError("a fold needs no model")


def scored(database: Database, params: steps.JobParams = PARAMS) -> str:
    """A job whose fold is due."""
    job = make_job(database, params=params)
    for number in steps.open_shards(database, job):
        assert steps.score(database, held(database, job, number))
    return job


def added_up(database: Database, found: Lease) -> Settle:
    return KINDS["profile"].fold(found.spec, stream_results(database, found.spec.job_id))


def settle(database: Database, found: Lease, outcome: Settle) -> bool:
    with database.write() as session:
        return complete_fold(session, found, outcome)


def rows(database: Database, job: str) -> tuple[int, int]:
    """How many shards and results the registry has of a job."""
    with database.read() as session:
        shards, results = (
            session.scalar(select(func.count()).select_from(table).where(table.job_id == job))
            for table in (Shard, StoredResult)
        )
    return shards or 0, results or 0


class FoldContract:
    def test_the_last_shard_makes_the_fold_due_and_counts_stay_those_of_pages(self, database: Database) -> None:
        with database.read() as session:
            before = count_open_shards(session)
        job = scored(database)
        for attempts in range(1, 4):  # folds that hand themselves back
            found = read_job(database, job)
            assert (found.state, found.done, found.total, found.attempts) == (JobState.RUNNING, 10, 10, 1)
            assert held(database, job, FOLD).attempt == attempts
            with database.write() as session:
                assert count_open_shards(session) == before
                release(session, "a")
        assert rows(database, job) == (SHARDS + 1, SHARDS)

    def test_the_map_takes_the_place_of_shards_and_results(self, database: Database, settings: Settings) -> None:
        job = scored(database)
        assert run_shard(database, settings, no_scorer, job, FOLD, owner="w") == "done"
        assert read_job(database, job).state is JobState.SUCCEEDED
        assert rows(database, job) == (0, 0)
        assert run_shard(database, settings, no_scorer, job, FOLD, owner="w") == "skipped"

    def test_who_does_the_last_shard_folds_at_once(self, database: Database, settings: Settings) -> None:
        job = make_job(database)
        for number in range(SHARDS):
            assert read_job(database, job).state is not JobState.SUCCEEDED
            assert run_shard(database, settings, FakeScorer, job, number, owner="w") == "done"
        assert read_job(database, job).state is JobState.SUCCEEDED

    def test_a_fold_that_is_killed_is_done_again_with_the_same_map_and_one_map(self, database: Database) -> None:
        calm, job = scored(database), scored(database)
        steps.fold_if_due(database, calm)
        late = held(database, job, FOLD, "killed")
        outcome = added_up(database, late)
        steps.let_run_out(database, job)
        second = held(database, job, FOLD, "second")
        assert not settle(database, late, outcome)
        assert read_job(database, job).map_id is None
        assert settle(database, second, added_up(database, second))
        assert steps.checksum(database, job) == steps.checksum(database, calm)
        settle(database, late, outcome)
        assert steps.maps_of(database, job) == 1

    def test_a_second_write_after_a_lost_answer_changes_nothing(self, database: Database) -> None:
        job = make_job(database)
        leases = [held(database, job, number) for number in range(SHARDS)]
        assert all(steps.score(database, found) for found in leases)
        fold = held(database, job, FOLD)
        outcome = added_up(database, fold)
        assert settle(database, fold, outcome)
        assert settle(database, fold, outcome)
        assert all(steps.score(database, found) for found in leases)  # the fold has removed them meanwhile
        assert read_job(database, job).done == 10
        assert (steps.maps_of(database, job), rows(database, job)) == (1, (0, 0))

    def test_of_many_folds_one_is_written(self, database: Database, settings: Settings) -> None:
        job = scored(database)
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(
                pool.map(lambda owner: run_shard(database, settings, no_scorer, job, FOLD, owner=str(owner)), range(16))
            )
        assert outcomes.count("done") == 1
        assert set(outcomes) == {"done", "skipped"}
        assert steps.maps_of(database, job) == 1

    def test_a_fold_that_nobody_began_is_announced(self, database: Database) -> None:
        job = scored(database)
        found = steps.claim(database)
        assert (job, FOLD) in found

    def test_a_fold_that_nobody_survives_fails_its_job_and_says_so(self, database: Database) -> None:
        job = scored(database)
        for _ in range(2):
            held(database, job, FOLD, "dies")
            steps.let_run_out(database, job)
            with database.write() as session:
                assert expire(session, job, FOLD, max_attempts=2, back_off=0)
        failed = read_job(database, job)
        assert (failed.state, failed.attempts) == (JobState.FAILED, 1)
        assert failed.error == "the fold failed after 2 attempts: worker dies did not renew its lease"
        assert rows(database, job)[1] == 0

    def test_results_that_are_no_sums_end_the_job(self, database: Database, settings: Settings) -> None:
        job = scored(database)
        with database.write() as session:
            session.get_one(StoredResult, (job, 1)).body = b"junk"
        assert run_shard(database, settings, no_scorer, job, FOLD, owner="w") == "failed"
        assert read_job(database, job).error == "the fold failed: sums: 4 bytes, which are no sums of 0 x 0 heads"

    def test_a_cancelled_fold_files_nothing(self, database: Database) -> None:
        job = scored(database)
        found = held(database, job, FOLD)
        outcome = added_up(database, found)
        with database.write() as session:
            cancel_job(session, job)
        with database.write() as session:
            assert not renew(session, found, seconds=60, pages_done=0)
        assert not settle(database, found, outcome)
        assert read_job(database, job).state is JobState.CANCELLED
        assert (steps.maps_of(database, job), rows(database, job)[1]) == (0, 0)

    def test_a_cancel_between_the_lease_and_the_reading_ends_the_fold_quietly(
        self, database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Cancelling(Tracer):
            """The fold's span begins after its lease and before its reading."""

            def start(
                self, name: str, kind: Kind, carrier: Mapping[str, str], attributes: Attributes | None = None
            ) -> Span:
                with database.write() as session:
                    cancel_job(session, job)
                return NO_SPAN

        job = scored(database)
        assert run_shard(database, settings, no_scorer, job, FOLD, owner="w", tracer=Cancelling()) == "lost"
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
        assert read_job(database, job).state is JobState.CANCELLED

    def test_a_round_leaves_one_total_in_place_of_its_results(self, database: Database) -> None:
        job = scored(database, replace(AUTO, seed=1))
        steps.fold_if_due(database, job)
        assert read_job(database, job).total == 10
        with database.read() as session:
            stored = session.scalars(select(StoredResult).where(StoredResult.job_id == job)).one()
        assert stored.number == FOLD
        shards = [
            sum((steps.page_sums(number, seed=1) for number in pages), PageSums.none(LAYERS, HEADS))
            for pages in (range(4), range(4, 6))
        ]
        assert stored.body == (shards[0] + shards[1]).to_bytes()
        assert steps.open_shards(database, job) == [2]  # numbered on

    def test_a_late_fold_of_a_former_round_writes_nothing(self, database: Database) -> None:
        job = scored(database, replace(AUTO, seed=1, max_pages=15))
        late = held(database, job, FOLD, "late")
        outcome = added_up(database, late)
        steps.let_run_out(database, job)
        steps.fold_if_due(database, job)
        assert steps.score(database, held(database, job, 2))
        second = held(database, job, FOLD)  # of the second round
        assert second.attempt == 3
        assert not settle(database, late, outcome)
        assert read_job(database, job).total == 10
        assert settle(database, second, added_up(database, second))
        assert read_job(database, job).total == 15

    def test_rounds_are_cut_into_shards_of_the_jobs_own_size(self, database: Database) -> None:
        job = scored(database, replace(AUTO, seed=1, pages=2, min_pages=2, max_pages=20))
        steps.fold_if_due(database, job)
        assert (read_job(database, job).total, steps.open_shards(database, job)) == (6, [1])
        sizes = []
        while opened := steps.open_shards(database, job):
            with database.read() as session:
                sizes += [session.get_one(Shard, (job, number)).count for number in opened]
            for number in opened:
                steps.score(database, held(database, job, number))
            steps.fold_if_due(database, job)
        assert sizes == [4, 4, 4, 1, 4, 1][: len(sizes)]

    def test_results_are_read_in_the_order_of_shards(self, database: Database) -> None:
        job = make_job(database)
        numbers = [FOLD, *range(100)]
        with database.write() as session:
            session.add_all(StoredResult(job_id=job, number=n, body=str(n).encode()) for n in reversed(numbers))
        assert list(stream_results(database, job)) == [str(number).encode() for number in numbers]
