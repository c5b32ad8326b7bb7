"""Uploaded datasets with PostgreSQL."""

from __future__ import annotations

import pytest

from tests.shared.datasets.uploads_contract import MoveContract, UploadContract
from tests.shared.registry.datasets_contract import DatasetContract

pytestmark = pytest.mark.integration


class TestPostgres(DatasetContract):
    pass


class TestUploadsOnPostgres(UploadContract):
    pass


class TestMovesOnPostgres(MoveContract):
    pass
