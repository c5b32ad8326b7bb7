"""The lease contract on PostgreSQL, where transactions really run side by side."""

import pytest

from tests.shared.jobs.contract import LeaseContract


@pytest.mark.integration
class TestLeasesOnPostgres(LeaseContract):
    pass
