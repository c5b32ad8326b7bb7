"""Migrations on PostgreSQL, up and down with data in place."""

import pytest

from tests.shared.registry.migrations_contract import MigrationContract


@pytest.mark.integration
class TestMigrationsOnPostgres(MigrationContract):
    pass
