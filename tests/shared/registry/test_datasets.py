"""Uploaded datasets in SQLite."""

from __future__ import annotations

from tests.shared.registry.datasets_contract import DatasetContract


class TestSQLite(DatasetContract):
    pass
