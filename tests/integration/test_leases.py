"""The contracts of leases and folds on PostgreSQL, where transactions really run side by side."""

import pytest

from tests.shared.jobs.contract import LeaseContract
from tests.shared.jobs.fold_contract import FoldContract


@pytest.mark.integration
class TestLeasesOnPostgres(LeaseContract):
    pass


@pytest.mark.integration
class TestFoldOnPostgres(FoldContract):
    pass
