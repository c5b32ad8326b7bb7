"""The lease contract on SQLite, and how long a shard that failed has to wait."""

from headmap.jobs.leases import MAX_BACK_OFF, fail
from headmap.registry.session import Database, utc_now
from headmap.registry.tables import Shard
from tests.shared.jobs.contract import LeaseContract
from tests.shared.jobs.steps import held, make_job


class TestLeasesOnSqlite(LeaseContract):
    pass


def test_each_wait_is_twice_as_long_up_to_a_limit(database: Database) -> None:
    job = make_job(database)
    waits = []
    for attempt in range(9):
        found = held(database, job, 0, str(attempt))
        with database.write() as session:
            now = utc_now(session)
            fail(session, found, "busy", permanent=False, max_attempts=100, back_off=2)
            shard = session.get_one(Shard, (job, 0))
            waits.append(round((shard.due_at - now).total_seconds()))
            shard.due_at = now
    assert waits == [min(2**attempt, MAX_BACK_OFF) for attempt in range(1, 10)]
    assert waits[-1] == MAX_BACK_OFF
