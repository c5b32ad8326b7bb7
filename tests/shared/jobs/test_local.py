"""A job done in this process: the same map as workers make, and it goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headmap.errors import InvalidParameter
from headmap.jobs.local import profile_here
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.registry.session import Database
from headmap.registry.tables import JobState
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO, FakeScorer


class Interrupted:
    """Ctrl-C in the middle of shard `number`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.scored: list[int] = []

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        if spec.number == self._number:
            raise KeyboardInterrupt
        self.scored.append(spec.number)
        return FakeScorer()(spec, on_page)


@pytest.mark.parametrize("params", [steps.PARAMS, steps.AUTO])
def test_the_map_is_that_of_workers(database: Database, settings: Settings, params: steps.JobParams) -> None:
    theirs = steps.make_job(database, params=params)
    steps.read_on(database, theirs)
    told: list[tuple[int, int]] = []
    job = profile_here(
        database, settings, INFO, params, FakeScorer(), force=True, on_progress=lambda *pages: told.append(pages)
    )
    assert job.state is JobState.SUCCEEDED
    assert steps.checksum(database, job.id) == steps.checksum(database, theirs)
    assert told[0] == (0, params.pages)
    assert told[-1] == (job.total, job.total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_equal_profile_is_not_made_twice(database: Database, settings: Settings) -> None:
    first = profile_here(database, settings, INFO, steps.PARAMS, FakeScorer())
    again = profile_here(database, settings, INFO, steps.PARAMS, Interrupted(0))
    assert (again.id, again.map_id) == (first.id, first.map_id)
    forced = profile_here(database, settings, INFO, steps.PARAMS, FakeScorer(), force=True)
    assert forced.id != first.id


def test_what_is_interrupted_goes_on_where_it_stopped(database: Database, settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt):
        profile_here(database, settings, INFO, steps.PARAMS, Interrupted(1))
    rest = Interrupted(99)
    job = profile_here(database, settings, INFO, steps.PARAMS, rest)
    assert rest.scored == [1, 2]
    assert (job.state, job.done) == (JobState.SUCCEEDED, 10)


def test_a_job_that_fails_says_why(database: Database, settings: Settings) -> None:
    def refuse(spec: ShardSpec, on_page: OnPage) -> ShardResult:
        raise InvalidParameter("pages: there are none")

    job = profile_here(database, settings, INFO, steps.PARAMS, refuse)
    assert (job.state, job.map_id) == (JobState.FAILED, None)
    assert "there are none" in (job.error or "")


def test_a_shard_that_fails_for_a_while_is_tried_again(database: Database, settings: Settings) -> None:
    class Flaky(FakeScorer):
        left = 2

        def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
            self.left -= 1
            if self.left >= 0:
                raise RuntimeError("device lost")
            return super().__call__(spec, on_page)

    job = profile_here(database, settings, INFO, replace(steps.PARAMS, seed=5), Flaky())
    assert job.state is JobState.SUCCEEDED
