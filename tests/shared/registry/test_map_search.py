"""Searches in the list of maps on SQLite; tests/integration has them on PostgreSQL."""

from __future__ import annotations

from tests.shared.registry.map_search_contract import MapSearchContract


class TestSearchOnSqlite(MapSearchContract):
    pass
