"""Searches in the list of maps on PostgreSQL."""

from __future__ import annotations

import pytest

from tests.shared.registry.map_search_contract import MapSearchContract


@pytest.mark.integration
class TestSearchOnPostgres(MapSearchContract):
    pass
