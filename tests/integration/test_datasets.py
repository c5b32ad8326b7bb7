"""Uploaded datasets in PostgreSQL."""

from __future__ import annotations

import pytest

from tests.shared.registry.datasets_contract import DatasetContract


@pytest.mark.integration
class TestPostgres(DatasetContract):
    pass
