"""The registry in a database."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import select as sql_select
from sqlalchemy.orm import Session

from headmap.blobs.location import open_blobs
from headmap.datasets.checking import check_archive, check_folder
from headmap.datasets.upkeep import clear_after_removal
from headmap.datasets.uploads import check_name, file_upload
from headmap.head_scores import HeadScores
from headmap.kvcache.select import Select
from headmap.registry import aliases, datasets, evaluations, maps, policies
from headmap.registry.aliases import Move, Promote
from headmap.registry.datasets import DatasetRecord
from headmap.registry.map_file import MapFile, add_map_file, read_map_file
from headmap.registry.map_search import MapSearch
from headmap.registry.maps import MapRecord
from headmap.registry.paging import Page
from headmap.registry.policies import PolicyRecord
from headmap.registry.session import Database
from headmap.registry.tables import Map
from services.cli.common import load_settings

T = TypeVar("T")

_PAGE = 200


class LocalRegistry:
    """Implements `services.cli.registry.Registry`; `data_dir` as the command line gave it."""

    def __init__(self, database: Database, data_dir: Path | None) -> None:
        self.database, self._data_dir = database, data_dir

    def maps(self, search: MapSearch) -> list[MapRecord]:
        with self.database.read() as session:
            return _all(lambda cursor: maps.list_maps(session, search, limit=_PAGE, cursor=cursor))

    def whole_id(self, start: str) -> str:
        with self.database.read() as session:
            return whole_id(session, start)

    def map(self, start: str) -> MapRecord:
        map_id = self.whole_id(start)
        with self.database.read() as session:
            return maps.get_map(session, map_id)

    def find_map(self, model: str, name: str) -> MapRecord:
        with self.database.read() as session:
            return maps.find_map(session, model, name)[0]

    def scores(self, map_id: str) -> HeadScores:
        with self.database.read() as session:
            return maps.get_scores(session, map_id)

    def standard_errors(self, map_id: str) -> np.ndarray | None:
        with self.database.read() as session:
            return maps.get_standard_errors(session, map_id)

    def map_file(self, map_id: str) -> MapFile:
        with self.database.read() as session:
            return read_map_file(session, map_id)

    def import_map(self, file: MapFile, promote: Promote) -> MapRecord:
        with self.database.write() as session:
            return maps.get_map(session, add_map_file(session, file, promote=promote, by=whoever()))

    def annotate_map(self, map_id: str, values: Mapping[str, Any]) -> MapRecord:
        with self.database.write() as session:
            return maps.annotate_map(session, map_id, values)

    def delete_map(self, map_id: str) -> None:
        with self.database.write() as session:
            maps.delete_map(session, map_id)

    def set_alias(self, map_id: str, alias: str, instead_of: str | None) -> MapRecord:
        with self.database.write() as session:
            return maps.set_alias(session, map_id, alias, by=whoever(), expected=_expected(instead_of))

    def delete_alias(self, record: MapRecord, alias: str, instead_of: str | None) -> MapRecord:
        expected = _expected(instead_of)
        with self.database.write() as session:
            aliases.remove(session, record.model, alias, record.id, by=whoever(), expected=expected)
            return maps.get_map(session, record.id)

    def moves(self, model: str, alias: str | None) -> list[Move]:
        with self.database.read() as session:
            return list(aliases.history(session, model, alias=alias, limit=_PAGE).items)

    def policies(self, model: str | None) -> list[PolicyRecord]:
        with self.database.read() as session:
            return _all(lambda cursor: policies.list_policies(session, model=model, limit=_PAGE, cursor=cursor))

    def policy(self, model: str, name: str) -> PolicyRecord:
        with self.database.read() as session:
            return policies.get_policy(session, model, name)

    def policy_versions(self, model: str, name: str) -> list[PolicyRecord]:
        with self.database.read() as session:
            return list(policies.policy_history(session, model, name, limit=_PAGE).items)

    def put_policy(self, model: str, name: str, kv: Mapping[str, Any], instead_of: int | None) -> PolicyRecord:
        expected = _expected(instead_of)
        with self.database.write() as session:
            return policies.put_policy(session, model, name, kv, by=whoever(), expected=expected)[0]

    def promote(
        self,
        evaluation_id: str,
        name: str,
        instead_of: int | None,
        *,
        method: str | None,
        ratio: float | None,
        select: Select | None,
    ) -> PolicyRecord:
        wish: dict[str, Any] = {"method": method, "ratio": ratio, "select": select, "expected": _expected(instead_of)}
        with self.database.write() as session:
            return evaluations.promote(session, evaluation_id, name, by=whoever(), **wish)[0]

    def delete_policy(self, model: str, name: str, instead_of: int | None) -> None:
        with self.database.write() as session:
            policies.delete_policy(session, model, name, by=whoever(), expected=_expected(instead_of))

    def datasets(self) -> list[DatasetRecord]:
        with self.database.read() as session:
            return _all(lambda cursor: datasets.list_datasets(session, limit=_PAGE, cursor=cursor))

    def add_dataset(self, name: str, source: Path) -> tuple[DatasetRecord, bool]:
        check_name(name)
        settings = load_settings(self._data_dir)
        blobs = open_blobs(settings)
        if source.is_dir():
            return file_upload(self.database, blobs, name, check_folder(source, settings))
        with source.open("rb") as file, check_archive(file, settings) as upload:
            return file_upload(self.database, blobs, name, upload)

    def remove_dataset(self, name: str) -> None:
        blobs = open_blobs(load_settings(self._data_dir))
        with self.database.write() as session:
            removed = datasets.remove_dataset(session, name)
        clear_after_removal(self.database, blobs, removed)


def whoever() -> str:
    """Who runs the command, as the history of aliases names them."""
    try:
        return f"cli {getpass.getuser()}"[:128]
    except (OSError, KeyError):  # a user without a name
        return "cli"


def whole_id(session: Session, start: str) -> str:
    """The one id of a map that begins with `start`; `start` itself where there is none."""
    found = list(session.scalars(sql_select(Map.id).where(Map.id.startswith(start, autoescape=True)).limit(2)))
    return found[0] if len(found) == 1 else start


def _all(page: Callable[[str | None], Page[T]]) -> list[T]:
    """The items of every page of a list."""
    found = page(None)
    items = list(found.items)
    while found.next_cursor is not None:
        found = page(found.next_cursor)
        items += found.items
    return items


def _expected(instead_of: object) -> frozenset[str] | None:
    return None if instead_of is None else frozenset([str(instead_of)])
