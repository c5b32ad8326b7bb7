"""What commands read and write, wherever it is: in a database of this machine's settings, or in a cluster over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from services.cli.common import cluster_url, open_registry

if TYPE_CHECKING:
    import numpy as np

    from headmap.head_scores import HeadScores
    from headmap.kvcache.select import Select
    from headmap.registry.aliases import Move, Promote
    from headmap.registry.datasets import DatasetRecord
    from headmap.registry.map_file import MapFile
    from headmap.registry.map_search import MapSearch
    from headmap.registry.maps import MapRecord
    from headmap.registry.policies import PolicyRecord


class Registry(Protocol):
    """Maps, policies and datasets. Each call is a transaction of its own, and raises as `headmap.registry` does.

    `instead_of`: what an alias points at, or the version that a policy has; a write that finds another one raises
    AliasMoved or PolicyChanged.
    """

    def maps(self, search: MapSearch) -> list[MapRecord]:
        """All maps that are searched, in the search's order."""

    def whole_id(self, start: str) -> str:
        """The one id of a map that begins with `start`; `start` itself where there is none."""

    def map(self, start: str) -> MapRecord:
        """The map with this id, or the only one whose id begins so."""

    def find_map(self, model: str, name: str) -> MapRecord:
        """The map of `model` with the id or alias `name`."""

    def scores(self, map_id: str) -> HeadScores: ...

    def standard_errors(self, map_id: str) -> np.ndarray | None:
        """(num_layers, num_heads) float64 in units of the scores; None for an import."""

    def map_file(self, map_id: str) -> MapFile: ...

    def import_map(self, file: MapFile, promote: Promote) -> MapRecord: ...

    def annotate_map(self, map_id: str, values: Mapping[str, Any]) -> MapRecord:
        """Replace the `tags` and the `notes` that are among `values`."""

    def delete_map(self, map_id: str) -> None: ...

    def set_alias(self, map_id: str, alias: str, instead_of: str | None) -> MapRecord: ...

    def delete_alias(self, record: MapRecord, alias: str, instead_of: str | None) -> MapRecord: ...

    def moves(self, model: str, alias: str | None) -> list[Move]:
        """The last 200 moves of a model's aliases, newest first."""

    def policies(self, model: str | None) -> list[PolicyRecord]: ...

    def policy(self, model: str, name: str) -> PolicyRecord: ...

    def policy_versions(self, model: str, name: str) -> list[PolicyRecord]:
        """The last 200, newest first."""

    def put_policy(self, model: str, name: str, kv: Mapping[str, Any], instead_of: int | None) -> PolicyRecord: ...

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
        """Make a policy of an evaluation's recommended case, or of the one that is named."""

    def delete_policy(self, model: str, name: str, instead_of: int | None) -> None: ...

    def datasets(self) -> list[DatasetRecord]:
        """All uploads, newest first."""

    def add_dataset(self, name: str, source: Path) -> tuple[DatasetRecord, bool]:
        """Add a folder of pages or an archive of one. Also returns whether it is new."""

    def remove_dataset(self, name: str) -> None: ...


@contextmanager
def registry(data_dir: Path | None) -> Iterator[Registry]:
    """The cluster's that `--url` or HEADMAP_URL names, else that of the settings.

    Raises RegistryUnavailable and ClusterUnavailable.
    """
    if (url := cluster_url(data_dir)) is not None:
        from services.cli.registry.remote import RemoteRegistry
        from services.cli.remote.client import open_client

        with open_client(url) as client:
            yield RemoteRegistry(client)
        return
    from services.cli.registry.local import LocalRegistry

    with open_registry(data_dir) as database:
        yield LocalRegistry(database, data_dir)
