"""Datasets in the blob store, with SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headmap.datasets.packs import packed, page_of, unpacked
from headmap.errors import DatasetUnavailable
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from tests.shared.datasets.uploads_contract import MoveContract, UploadContract


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", shard_pages=4)


@pytest.fixture
def database(settings: Settings, migrated: Callable[[Settings], None]) -> Iterator[Database]:
    migrated(settings)
    opened = open_database(settings)
    yield opened
    opened.close()


class TestUploads(UploadContract):
    pass


class TestMoves(MoveContract):
    pass


def test_what_is_packed_is_unpacked_page_by_page() -> None:
    rows = [("a", b"1"), ("", b""), ("ü", bytes(5 * 2**20)), ("b", b"2")]
    made = list(packed(rows, first=7))
    assert [(pack.first, pack.pages) for pack in made] == [(7, 3), (10, 1)]
    assert [row for pack in made for row in unpacked(pack.data)] == rows
    assert [page_of(made[0].data, number) for number in range(3)] == rows[:3]
    assert list(packed([])) == []


def test_what_is_no_pack_is_told() -> None:
    (pack,) = packed([("a", b"1")])
    with pytest.raises(DatasetUnavailable, match="no page 1"):
        page_of(pack.data, 1)
    for broken in (pack.data[:-1], pack.data[:9], b"12345678"):
        with pytest.raises(DatasetUnavailable, match="pack is cut short"):
            list(unpacked(broken))
