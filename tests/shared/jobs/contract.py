"""What leases and folds promise, on whatever database: run on SQLite here and on PostgreSQL in tests/integration."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select, update

from headmap.errors import JobEnded, UnsupportedModel
from headmap.head_scores import HeadScores, compare
from headmap.jobs.leases import acquire, complete, expire, fail, release, renew, shorten_waits
from headmap.jobs.work import ShardResult
from headmap.page_sums import PageSums
from headmap.registry import maps
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import cancel_job, get_job
from headmap.registry.session import Database, utc_now
from headmap.registry.tables import JobState, Map, Shard, ShardState
from tests.shared.jobs.fakes import HEADS, INFO, KV_HEADS, LAYERS, FakeScorer, page_scores
from tests.shared.jobs.steps import (
    AUTO,
    PARAMS,
    SHARDS,
    checksum,
    claim,
    fails,
    finish,
    fold_if_due,
    held,
    later,
    lease,
    let_run_out,
    make_job,
    maps_of,
    open_shards,
    page_sums,
    read_job,
    read_on,
    shard_state,
)


class LeaseContract:
    def test_a_job_runs_with_its_first_lease_and_succeeds_with_its_last_shard(self, database: Database) -> None:
        job = make_job(database)
        assert read_job(database, job).state is JobState.QUEUED
        for number in range(SHARDS):
            assert finish(database, held(database, job, number))
            state = read_job(database, job)
            assert state.state is (JobState.SUCCEEDED if number == SHARDS - 1 else JobState.RUNNING)
        assert (state.done, state.total, state.attempts, state.error) == (10, 10, 1, None)
        assert state.started_at is not None
        assert state.finished_at is not None
        assert maps_of(database, job) == 1

    def test_a_leased_shard_is_nobody_elses(self, database: Database) -> None:
        job = make_job(database)
        held(database, job, 0)
        assert lease(database, job, 0, "b") is None

    def test_a_shard_whose_lease_ran_out_is_taken_over_and_the_late_worker_refused(self, database: Database) -> None:
        job = make_job(database)
        late = held(database, job, 0, "late")
        let_run_out(database, job)
        second = held(database, job, 0, "second")
        assert second.attempt == late.attempt + 1
        assert not finish(database, late)
        assert not fails(database, late)
        with database.write() as session:
            assert not renew(session, late, seconds=60, pages_done=3)
        assert finish(database, second)
        assert not finish(database, late)
        assert read_job(database, job).done == 4

    def test_a_lease_that_ran_out_but_was_not_taken_still_counts(self, database: Database) -> None:
        job = make_job(database)
        found = held(database, job, 0)
        let_run_out(database, job)
        with database.write() as session:
            assert renew(session, found, seconds=60, pages_done=2)
        assert read_job(database, job).done == 2
        assert finish(database, found)

    def test_the_map_is_the_same_to_the_bit_whoever_did_what_when(self, database: Database) -> None:
        calm = make_job(database)
        for number in range(SHARDS):
            finish(database, held(database, calm, number))
        rough = make_job(database)
        for number in (2, 0, 1):
            held(database, rough, number, "killed")
            let_run_out(database, rough)
            finish(database, held(database, rough, number, "other"))
        assert checksum(database, rough) == checksum(database, calm)
        assert read_job(database, rough).attempts == 2

    def test_writing_a_result_twice_counts_it_once(self, database: Database) -> None:
        job = make_job(database)
        found = held(database, job, 0)
        assert finish(database, found)
        assert finish(database, found)  # the answer to the first commit was lost
        assert lease(database, job, 0, "b") is None
        assert read_job(database, job).done == 4

    def test_the_fold_happens_once_when_the_last_shards_finish_together(self, database: Database) -> None:
        for seed in range(3):
            params = JobParams(**{**vars(PARAMS), "pages": 32, "seed": seed})
            job = make_job(database, params=params)
            leases = [held(database, job, number) for number in range(8)]
            with ThreadPoolExecutor(16) as pool:
                done = list(pool.map(lambda found: finish(database, found), leases * 2))
            assert all(done)
            assert read_job(database, job).state is JobState.SUCCEEDED
            assert maps_of(database, job) == 1

    def test_of_many_workers_one_gets_the_lease(self, database: Database) -> None:
        job = make_job(database)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda owner: lease(database, job, 0, str(owner)), range(24)))
        assert len([one for one in found if one]) == 1

    def test_maps_of_one_model_written_at_once_get_versions_of_their_own(self, database: Database) -> None:
        jobs = [make_job(database, params=JobParams(**{**vars(PARAMS), "pages": 4, "seed": n})) for n in range(8)]
        leases = [held(database, job, 0) for job in jobs]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda found: finish(database, found), leases))
        with database.read() as session:
            versions = session.scalars(select(Map.version).where(Map.job_id.in_(jobs))).all()
        assert len(set(versions)) == 8

    def test_a_failed_attempt_is_tried_again_until_there_were_enough(self, database: Database) -> None:
        job = make_job(database)
        for attempt in range(3):
            assert read_job(database, job).state is not JobState.FAILED
            assert fails(database, held(database, job, 1, str(attempt)))
        failed = read_job(database, job)
        assert failed.state is JobState.FAILED
        assert failed.error == "pages 4 to 7 failed after 3 attempts: broken"
        assert shard_state(database, job, 0) == ShardState.CANCELLED
        assert lease(database, job, 0) is None

    def test_a_permanent_error_fails_the_job_at_once(self, database: Database) -> None:
        job = make_job(database)
        assert fails(database, held(database, job, 0), permanent=True)
        assert read_job(database, job).error == "pages 0 to 3 failed: broken"

    def test_a_poison_shard_does_not_stop_other_jobs(self, database: Database) -> None:
        poisoned, healthy = make_job(database), make_job(database)
        fails(database, held(database, poisoned, 0), permanent=True)
        for number in range(SHARDS):
            assert finish(database, held(database, healthy, number))
        assert read_job(database, healthy).state is JobState.SUCCEEDED

    def test_leases_that_run_out_count_as_failures(self, database: Database) -> None:
        job = make_job(database)
        for _ in range(3):
            held(database, job, 0, "dies")
            let_run_out(database, job)
            with database.write() as session:
                assert expire(session, job, 0, max_attempts=3, back_off=0)
        assert "after 3 attempts: worker dies did not renew its lease" in (read_job(database, job).error or "")

    def test_a_worker_that_comes_upon_a_shard_nobody_survives_ends_its_job(self, database: Database) -> None:
        job = make_job(database)
        for _ in range(3):
            with database.write() as session:
                assert acquire(session, job, 0, owner="dies", seconds=60, max_attempts=3) is not None
            let_run_out(database, job)
        with database.write() as session:
            assert acquire(session, job, 0, owner="dies", seconds=60, max_attempts=3) is None
        assert "after 3 attempts: worker dies did not renew its lease" in (read_job(database, job).error or "")

    def test_progress_counts_pages_of_shards_that_are_done_and_under_way(self, database: Database) -> None:
        job = make_job(database)
        assert finish(database, held(database, job, 0))
        found = held(database, job, 1)
        with database.write() as session:
            assert renew(session, found, seconds=60, pages_done=3)
        seen = read_job(database, job)
        assert (seen.done, seen.total, seen.attempts) == (7, 10, 1)
        let_run_out(database, job)
        held(database, job, 1)
        seen = read_job(database, job)
        assert (seen.done, seen.attempts) == (4, 2)

    def test_a_clock_that_went_back_lets_no_lease_and_no_wait_stand_for_hours(self, database: Database) -> None:
        job = make_job(database)
        held(database, job, 0)
        later(database, job, timedelta(hours=1))  # as if all was written before the clock went back by an hour
        assert lease(database, job, 1) is None
        with database.write() as session:
            assert shorten_waits(session, lease_seconds=60) > 0
        assert lease(database, job, 1) is not None
        with database.read() as session:
            until = session.scalar(select(Shard.lease_until).where(Shard.job_id == job, Shard.number == 0))
            assert until is not None
            assert until <= utc_now(session) + timedelta(seconds=61)
        with database.write() as session:
            assert shorten_waits(session, lease_seconds=60) == 0
        assert claim(database) == [(job, 2)]

    def test_a_lease_in_force_does_not_expire(self, database: Database) -> None:
        job = make_job(database)
        held(database, job, 0)
        with database.write() as session:
            assert not expire(session, job, 0, max_attempts=3, back_off=0)

    def test_after_a_failure_a_shard_waits(self, database: Database) -> None:
        job = make_job(database)
        found = held(database, job, 0)
        with database.write() as session:
            fail(session, found, "busy", permanent=False, max_attempts=3, back_off=100)
        assert lease(database, job, 0) is None

    def test_a_worker_that_goes_hands_its_shards_back_without_a_failure(self, database: Database) -> None:
        job = make_job(database)
        for _ in range(5):
            found = held(database, job, 0, "going_/1")
            other = held(database, job, 1, "goingX/1")
            with database.write() as session:
                assert release(session, "going_/") == 1
            assert not finish(database, found)
            with database.write() as session:
                assert renew(session, other, seconds=1, pages_done=0)
                release(session, "goingX/")
        assert read_job(database, job).state is JobState.RUNNING

    def test_cancel_ends_a_job_and_its_leases(self, database: Database) -> None:
        job = make_job(database)
        found = held(database, job, 0)
        with database.write() as session:
            cancel_job(session, job)
        assert read_job(database, job).state is JobState.CANCELLED
        with database.write() as session:
            assert not renew(session, found, seconds=60, pages_done=1)
        assert not finish(database, found)
        assert lease(database, job, 1) is None
        with pytest.raises(JobEnded), database.write() as session:
            cancel_job(session, job)

    def test_cancel_and_finish_at_once_end_in_one_state(self, database: Database) -> None:
        for seed in range(4):
            job = make_job(database, params=JobParams(**{**vars(PARAMS), "pages": 4, "seed": seed}))
            found = held(database, job, 0)

            def cancel(job: str = job) -> bool:
                try:
                    with database.write() as session:
                        cancel_job(session, job)
                except JobEnded:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                finished, cancelled = pool.submit(finish, database, found), pool.submit(cancel)
            assert finished.result() or cancelled.result()  # both: cancelled between the shard and the fold
            state = read_job(database, job)
            assert state.state is (JobState.CANCELLED if cancelled.result() else JobState.SUCCEEDED)
            assert maps_of(database, job) == (0 if cancelled.result() else 1)

    def test_auto_goes_on_until_the_halves_agree_and_the_map_has_those_pages(self, database: Database) -> None:
        job = make_job(database, params=AUTO)
        rounds = read_on(database, job)
        done = read_job(database, job)
        assert done.state is JobState.SUCCEEDED
        assert rounds == [6, 10, 15, 22, 33, 40][: len(rounds)]  # half as many again, at least a shard
        assert len(rounds) > 1
        assert done.done == done.total == done.params.pages == rounds[-1]
        with database.read() as session:
            record = maps.get_map(session, done.map_id or "")
        assert record.pages == rounds[-1]
        for pages in rounds:  # it stopped at the first round after which the halves agreed
            total = sum((page_sums(number) for number in range(pages)), PageSums.none(LAYERS, HEADS))
            stability = total.stability(KV_HEADS)
            agreed = stability is not None and stability.top5pct_overlap >= 1
            assert agreed == (pages == rounds[-1])

    def test_auto_stops_at_its_maximum(self, database: Database) -> None:
        job = make_job(database, params=replace(AUTO, seed=1, max_pages=10))
        assert read_on(database, job) == [6, 10]
        assert read_job(database, job).state is JobState.SUCCEEDED

    def test_auto_makes_the_same_map_whatever_is_killed(self, database: Database) -> None:
        calm, rough = make_job(database, params=AUTO), make_job(database, params=AUTO)
        read_on(database, calm)
        while not read_job(database, rough).state.ended:
            for number in reversed(open_shards(database, rough)):
                late = held(database, rough, number, "killed")
                let_run_out(database, rough)
                second = held(database, rough, number, "second")
                assert not finish(database, late)
                assert finish(database, second)
                assert finish(database, second)  # told twice: decided once
        assert read_job(database, rough).total == read_job(database, calm).total
        assert checksum(database, rough) == checksum(database, calm)
        assert maps_of(database, rough) == 1

    def test_a_round_that_ends_on_many_workers_at_once_is_decided_once(self, database: Database) -> None:
        job = make_job(database, params=replace(AUTO, pages=32, min_pages=32, max_pages=48, seed=1))
        leases = [held(database, job, number) for number in range(8)]
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda found: finish(database, found), leases * 2))
        assert read_job(database, job).state in (JobState.RUNNING, JobState.SUCCEEDED)
        assert len(open_shards(database, job)) in (0, 4)  # 16 more pages, once, or none

    def test_a_round_is_announced_by_the_next_sweep(self, database: Database) -> None:
        job = make_job(database, params=replace(AUTO, seed=1))
        for number in open_shards(database, job):
            finish(database, held(database, job, number))
        assert open_shards(database, job) == [2]
        found = claim(database)
        assert [number for owner, number in found if owner == job] == [2]

    def test_a_job_without_a_hit_fails_and_says_so(self, database: Database) -> None:
        job = make_job(database, params=JobParams(**{**vars(PARAMS), "pages": 4}))
        found = held(database, job, 0)
        empty = ShardResult(replace(PageSums.none(LAYERS, HEADS), pages=4, tokens_seen=40).to_bytes())
        with database.write() as session:
            assert complete(session, found, empty)
        fold_if_due(database, job)
        failed = read_job(database, job)
        assert failed.state is JobState.FAILED
        assert "every score is 0" in (failed.error or "")
        assert maps_of(database, job) == 0

    def test_scores_of_another_shape_are_refused(self, database: Database) -> None:
        job = make_job(database)
        found = held(database, job, 0)
        result = FakeScorer(shape=(2, 2))(found.spec, lambda done: None)
        with pytest.raises(UnsupportedModel), database.write() as session:
            complete(session, found, result)

    def test_the_map_holds_the_mean_and_its_standard_error(self, database: Database) -> None:
        job = make_job(database)
        for number in range(SHARDS):
            finish(database, held(database, job, number))
        pages = np.stack([page_scores(0, page) for page in range(10)])
        with database.read() as session:
            map_id = get_job(session, job).map_id or ""
            record = maps.get_map(session, map_id)
            scores = maps.get_scores(session, map_id)
            errors = maps.get_standard_errors(session, map_id)
        mean = pages.mean(0)
        assert np.allclose(scores.matrix, mean / mean.sum())
        share = mean / mean.sum()
        residuals = pages - share * pages.sum((1, 2))[:, None, None]
        assert np.allclose(errors, residuals.std(0, ddof=1) / np.sqrt(10) / mean.sum())
        halves = compare(*(HeadScores(pages[start::2].sum(0), KV_HEADS) for start in (0, 1)))
        assert (record.halves_top5pct_overlap, record.halves_spearman) == (halves.top5pct_overlap, halves.spearman)
        assert (record.pages, record.hits, record.tokens_seen, record.tokens_matched) == (10, 70, 100, 90)
        assert (record.revision, record.architecture, record.job_id) == (INFO.revision, INFO.architecture, job)
        assert scores.checksum() == record.checksum
        assert "default" in record.aliases

    def test_only_shards_that_got_lost_are_announced_again(self, database: Database) -> None:
        job = make_job(database)

        with database.write() as session:  # whatever other tests left
            session.execute(update(Shard).where(Shard.job_id != job).values(state=ShardState.CANCELLED))
        assert claim(database) == []  # announced a moment ago
        with database.write() as session:
            long_ago = utc_now(session) - timedelta(seconds=11)
            session.execute(update(Shard).where(Shard.job_id == job).values(enqueued_at=long_ago))
        assert claim(database, waiting=SHARDS) == []  # all still wait in the broker
        assert claim(database) == [(job, number) for number in range(SHARDS)]
        assert claim(database) == []  # another sweeper leaves them alone
