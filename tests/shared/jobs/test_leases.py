"""The lease contract on SQLite."""

from tests.shared.jobs.contract import LeaseContract


class TestLeasesOnSqlite(LeaseContract):
    pass
