"""A worker's successor ends the leases of a worker that was killed, and of nobody else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from headmap.jobs.leases import acquire
from headmap.jobs.local import profile_here
from headmap.jobs.slots import Slot, take_slot
from headmap.registry.session import Database
from headmap.registry.tables import JobState, Shard, ShardState
from headmap.settings import Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO, FakeScorer


@pytest.fixture(autouse=True)
def _locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))


def lease(database: Database, job: str, number: int, slot: Slot) -> None:
    with database.write() as session:
        assert acquire(session, job, number, owner=f"{slot.name}/1", seconds=3600) is not None


def states(database: Database, job: str) -> list[tuple[str, int]]:
    """State and failures of each shard."""
    with database.read() as session:
        shards = [session.get_one(Shard, (job, number)) for number in range(steps.SHARDS)]
        return [(shard.state, shard.failures) for shard in shards]


def test_living_workers_have_slots_of_their_own_and_a_free_one_is_taken_again(settings: Settings) -> None:
    first, second = take_slot(settings), take_slot(settings)
    assert first.place != second.place
    first.leave()
    third = take_slot(settings)
    assert third.place == first.place
    assert third.name != first.name
    elsewhere = take_slot(Settings(data_dir=settings.data_dir / "elsewhere"))
    assert elsewhere.place == first.place  # of another registry
    for slot in (second, third, elsewhere):
        slot.leave()


def test_a_successor_ends_the_leases_of_its_slot_alone(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    killed, living = take_slot(settings), take_slot(settings)
    lease(database, job, 0, killed)
    lease(database, job, 1, living)
    killed.leave()
    successor = take_slot(settings)
    lease(database, job, 2, successor)
    successor.end_former_leases(database, settings)
    # A failure: the shard may be what killed the worker, and must not do so for ever.
    assert states(database, job) == [(ShardState.QUEUED, 1), (ShardState.RUNNING, 0), (ShardState.RUNNING, 0)]
    successor.end_former_leases(database, settings)
    assert states(database, job)[0] == (ShardState.QUEUED, 1)
    for slot in (living, successor):
        slot.leave()


def test_a_shard_that_kills_each_worker_fails_its_job(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    hurried = settings.model_copy(update={"retry_seconds": 0.0, "max_attempts": 2})
    for _ in range(2):
        slot = take_slot(hurried)
        lease(database, job, 0, slot)
        slot.leave()
        successor = take_slot(hurried)
        successor.end_former_leases(database, hurried)
        successor.leave()
    found = steps.read_job(database, job)
    assert found.state is JobState.FAILED
    assert "ended in the middle" in str(found.error)


def test_a_killed_profile_goes_on_without_waiting_for_its_lease(database: Database, settings: Settings) -> None:
    job = steps.make_job(database)
    killed = take_slot(settings)
    lease(database, job, 0, killed)
    killed.leave()
    hurried = settings.model_copy(update={"retry_seconds": 0.0})
    found = profile_here(database, hurried, INFO, steps.PARAMS, FakeScorer())
    assert (found.id, found.state) == (job, JobState.SUCCEEDED)


def test_where_no_lock_can_be_had_a_worker_works_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(settings.data_dir / "nowhere"))
    slot = take_slot(settings)
    assert slot.place is None
    assert slot.name
    slot.leave()
