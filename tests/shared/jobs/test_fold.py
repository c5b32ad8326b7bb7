"""The fold contract on SQLite; tests/integration has it on PostgreSQL."""

from tests.shared.jobs.fold_contract import FoldContract


class TestFoldOnSqlite(FoldContract):
    pass
