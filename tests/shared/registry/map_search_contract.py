"""What the registry promises of searches in the list of maps, on whatever database."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headmap.errors import InvalidParameter
from headmap.head_scores import HeadScores
from headmap.registry import maps
from headmap.registry.map_search import MAP_ORDERS, MapSearch
from headmap.registry.maps import Provenance
from headmap.registry.session import Database

KNOWN: list[tuple[str, str, int | None, list[str], str | None]] = [
    ("org/reader", "synthetic", 100, ["prod", 'say "x"'], None),
    ("org/reader", "receipts", 900, ["Prod"], "read before the Summer"),
    ("org/reader", "receipts", None, [], "100_%"),
    ("org/reader", "receipts", 900, ["prod", "émile"], None),
    ("other", "synthetic", 0, ["production"], None),
]
"""Model, dataset, pages, tags and notes of maps: versions 1 to 4 of one model, then one of another."""

FOUND: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 4, 3, 2, 1]),
    ({"tags": ("prod",)}, [4, 1]),
    ({"tags": ("Prod",)}, [2]),
    ({"tags": ("prod", "émile")}, [4]),
    ({"tags": ('say "x"',)}, [1]),
    ({"tags": ("x",)}, []),
    ({"tags": ("pro%",)}, []),
    ({"dataset": "receipts", "min_pages": 1}, [4, 2]),
    ({"model": "other", "min_pages": 0}, [1]),
    ({"rule": "aligned", "model": "org/reader"}, [4, 2, 1]),
    ({"kind": "text-retrieval"}, [4]),
    ({"kind": "visual", "model": "org/reader"}, [3, 2, 1]),
    ({"alias": "default"}, [1, 1]),
    ({"alias": "default", "model": "other"}, [1]),
    ({"revision": "r2"}, []),
    ({"text": "READER"}, [4, 3, 2, 1]),
    ({"text": "summer"}, [2]),
    ({"text": "PROD"}, [1, 4, 2, 1]),
    ({"text": "émi"}, [4]),
    ({"text": "_%"}, [3]),
    ({"text": "nothing"}, []),
]


def file_known(database: Database) -> None:
    scores = HeadScores(np.ones((2, 4)), 2)
    for model, dataset, pages, tags, notes in KNOWN:
        provenance = Provenance(
            model=model,
            revision="r1",
            architecture=None,
            kind="text-retrieval" if "émile" in tags else "visual",
            dataset=dataset,
            pages=pages,
            hits=pages,
            rule=None if pages is None else "aligned",
        )
        with database.write() as session:
            maps.add_map(session, provenance, scores, tags=tags, notes=notes, promote="auto", by=None)


def found(database: Database, limit: int = 50, **search: Any) -> list[tuple[str, int]]:
    """Model and version of all that is found, through pages of `limit` maps."""
    seen, cursor = [], None
    with database.read() as session:
        while True:
            page = maps.list_maps(session, MapSearch(**search), limit=limit, cursor=cursor)
            seen += [(record.model, record.version) for record in page.items]
            if (cursor := page.next_cursor) is None:
                return seen


class MapSearchContract:
    def test_a_search_finds_the_maps_for_which_all_holds(self, database: Database) -> None:
        file_known(database)
        for search, versions in FOUND:
            assert [version for _, version in found(database, **search)] == versions, search

    def test_pages_of_every_order_meet_without_overlap(self, database: Database) -> None:
        file_known(database)
        for order_by in MAP_ORDERS:
            whole = found(database, order_by=order_by)
            assert len(set(whole)) == len(KNOWN)
            for limit in (1, 2):
                assert found(database, limit, order_by=order_by) == whole, order_by
            other = order_by.removesuffix(" desc") if order_by.endswith(" desc") else f"{order_by} desc"
            assert found(database, order_by=other) == whole[::-1], order_by
        # Unknown pages come before none.
        assert [version for _, version in found(database, order_by="pages")][:3] == [3, 1, 1]

    def test_a_cursor_of_another_order_is_refused(self, database: Database) -> None:
        file_known(database)
        with database.read() as session:
            cursor = maps.list_maps(session, MapSearch(order_by="pages"), limit=1).next_cursor
            for order_by in ("pages desc", "version", "created_at", "created_at desc"):
                with pytest.raises(InvalidParameter, match="cursor"):
                    maps.list_maps(session, MapSearch(order_by=order_by), cursor=cursor)
