"""The registry of a cluster, over HTTP."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np

from headmap.datasets.records import INDEX_FILE, read_records
from headmap.datasets.uploads import check_name
from headmap.errors import InvalidDataset, InvalidParameter, MapNotFound
from headmap.evaluation.selectors import selector_to_json
from headmap.head_scores import HeadScores
from headmap.kvcache.select import Select
from headmap.registry.aliases import Move, Promote, is_alias
from headmap.registry.datasets import DatasetRecord
from headmap.registry.map_file import MapFile, parse_map_file
from headmap.registry.map_search import MapSearch
from headmap.registry.maps import MapRecord
from headmap.registry.policies import PolicyRecord
from headmap.registry.session import is_id
from services.cli.remote.client import Client

_LATEST = 200


class RemoteRegistry:
    """Implements `services.cli.registry.Registry`. Who writes is the key, as the cluster names it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def maps(self, search: MapSearch) -> list[MapRecord]:
        query = asdict(search)
        return self._client.items(MapRecord, "/maps", tag=query.pop("tags"), **query)

    def whole_id(self, start: str) -> str:
        if is_id(start):
            return start
        found = [one.id for one in self.maps(MapSearch()) if one.id.startswith(start)]
        return found[0] if len(found) == 1 else start

    def map(self, start: str) -> MapRecord:
        map_id = self.whole_id(start)
        if not is_id(map_id):
            raise MapNotFound(f"map: there is no map {map_id!r}", param="map_id")
        return self._client.get(MapRecord, _of_map(map_id))

    def find_map(self, model: str, name: str) -> MapRecord:
        if is_id(name):
            try:
                record = self.map(name)
            except MapNotFound:
                pass
            else:
                if record.model == model:
                    return record
        if not is_alias(name):
            raise MapNotFound(f"there is no map or alias {name!r} of model {model!r}", param="alias")
        return self._client.get(MapRecord, "/maps/resolve", model=model, alias=name)

    def scores(self, map_id: str) -> HeadScores:
        matrix = self._client.get(list[list[float]], f"{_of_map(map_id)}/scores")
        return HeadScores(np.array(matrix, dtype=np.float64), self.map(map_id).num_kv_heads)

    def standard_errors(self, map_id: str) -> np.ndarray | None:
        try:
            return np.array(self._client.get(list[list[float]], f"{_of_map(map_id)}/scores", format="standard_errors"))
        except InvalidParameter:  # an import has none
            return None

    def map_file(self, map_id: str) -> MapFile:
        return parse_map_file(self._client.json(self._client.call("GET", f"{_of_map(map_id)}/export")))

    def import_map(self, file: MapFile, promote: Promote) -> MapRecord:
        body = {**json.loads(file.text()), "promote": promote}
        return self._client.read(MapRecord, self._client.call("POST", "/maps", body=body))

    def annotate_map(self, map_id: str, values: Mapping[str, Any]) -> MapRecord:
        return self._client.read(MapRecord, self._client.call("PATCH", _of_map(map_id), body=values))

    def delete_map(self, map_id: str) -> None:
        self._client.call("DELETE", _of_map(map_id))

    def set_alias(self, map_id: str, alias: str, instead_of: str | None) -> MapRecord:
        path = f"{_of_map(map_id)}/aliases/{_part(alias)}"
        return self._client.read(MapRecord, self._client.call("PUT", path, headers=_only(instead_of)))

    def delete_alias(self, record: MapRecord, alias: str, instead_of: str | None) -> MapRecord:
        self._client.call("DELETE", f"{_of_map(record.id)}/aliases/{_part(alias)}", headers=_only(instead_of))
        return self.map(record.id)

    def moves(self, model: str, alias: str | None) -> list[Move]:
        any_map = self._client.items(MapRecord, "/maps", most=1, model=model)
        if not any_map:
            return []
        path = f"{_of_map(any_map[0].id)}/aliases/history"
        told = self._client.items(dict[str, Any], path, most=_LATEST, alias=alias)
        return [self._client.parse(Move, {"id": 0, **move}) for move in told]  # ids stay with the rows

    def policies(self, model: str | None) -> list[PolicyRecord]:
        return self._client.items(PolicyRecord, "/policies", model=model)

    def policy(self, model: str, name: str) -> PolicyRecord:
        return self._client.get(PolicyRecord, _of_policy(model, name))

    def policy_versions(self, model: str, name: str) -> list[PolicyRecord]:
        return self._client.items(PolicyRecord, f"{_of_policy(model, name)}/history", most=_LATEST)

    def put_policy(self, model: str, name: str, kv: Mapping[str, Any], instead_of: int | None) -> PolicyRecord:
        path, headers = _of_policy(model, name), _only(instead_of)
        return self._client.read(PolicyRecord, self._client.call("PUT", path, body={"kv": kv}, headers=headers))

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
        told = None if select is None else selector_to_json(select)
        body = {"policy": name, "method": method, "ratio": ratio, "select": told}
        path, headers = f"/evaluations/{_part(evaluation_id)}/promote", _only(instead_of)
        return self._client.read(PolicyRecord, self._client.call("POST", path, body=body, headers=headers))

    def delete_policy(self, model: str, name: str, instead_of: int | None) -> None:
        self._client.call("DELETE", _of_policy(model, name), headers=_only(instead_of))

    def datasets(self) -> list[DatasetRecord]:
        return self._client.items(DatasetRecord, "/datasets")

    def add_dataset(self, name: str, source: Path) -> tuple[DatasetRecord, bool]:
        check_name(name)
        with _archive(source) as file:
            kind = {"Content-Type": "application/octet-stream"}
            answer = self._client.call("POST", "/datasets", query={"name": name}, content=file, headers=kind)
        return self._client.read(DatasetRecord, answer), answer.status_code == 201

    def remove_dataset(self, name: str) -> None:
        self._client.call("DELETE", f"/datasets/{_part(name)}")


@contextmanager
def _archive(source: Path) -> Iterator[IO[bytes]]:
    """An archive as it is; of a folder, the index and the pictures that it names. Raises InvalidDataset."""
    if not source.is_dir():
        with source.open("rb") as file:
            yield file
        return
    index = source / INDEX_FILE
    if not index.is_file():
        raise InvalidDataset(f"{index}: no such file")
    with index.open("rb") as lines:
        named = {record.file for _, record in read_records(lines, str(index))}
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
            for name in (INDEX_FILE, *sorted(named)):
                tar.add(source / name, name, recursive=False)
        packed.seek(0)
        yield packed


def _of_map(map_id: str) -> str:
    return f"/maps/{_part(map_id)}"


def _of_policy(model: str, name: str) -> str:
    return f"/policies/{quote(model)}/{_part(name)}"


def _part(name: str) -> str:
    return quote(name, safe="")


def _only(instead_of: object) -> dict[str, str]:
    return {} if instead_of is None else {"If-Match": f'"{instead_of}"'}
