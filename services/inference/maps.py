"""The maps of a served model: they follow the registry's aliases, and stay while the registry is away."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from headmap.errors import HeadmapError, MapMismatch, MapNotFound, RegistryUnavailable
from headmap.head_scores import HeadScores
from headmap.models import ModelInfo
from headmap.registry.aliases import DEFAULT_ALIAS
from headmap.registry.maps import MapRecord, find_map, get_scores, resolve_map
from headmap.registry.session import Database

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CACHED = 64


@dataclass(frozen=True)
class ServedMap:
    """A map as requests use it. `match` says whether it was made for the served revision."""

    id: str
    version: int
    match: Literal["exact", "revision"]
    scores: HeadScores


class MapBook:
    """The maps of one served model. Used on the event loop; SQL runs in threads.

    `default` is the map that `alias` points at. It serves sparsemm where a request names no map; None while the
    registry has none.
    """

    def __init__(self, database: Database, info: ModelInfo, alias: str = DEFAULT_ALIAS) -> None:
        self._database, self._info = database, info
        self._alias = None if alias == DEFAULT_ALIAS else alias
        self._scores: OrderedDict[str, HeadScores] = OrderedDict()
        self._named: OrderedDict[str, ServedMap] = OrderedDict()
        self.default: ServedMap | None = None
        self.away: str | None = None
        """Why the registry did not answer the last time it was asked; None when it did."""

    async def refresh(self) -> None:
        """Resolve the default map again. While the registry is away, the served map stays the same."""
        try:
            found = await asyncio.to_thread(self._look_up, None)
        except MapNotFound:
            found = None
        except RegistryUnavailable as error:
            if self.away is None:
                logger.warning("maps of %s: %s; serving on with what is loaded", self._info.name, error.detail)
            self.away = error.detail
            return
        self.away = None
        if (found and found.id) != (self.default and self.default.id):
            logger.info(
                "map of %s: %s", self._info.name, f"version {found.version}, {found.id}" if found else "none any more"
            )
        self.default = found

    async def named(self, name: str) -> ServedMap:
        """The map with this id or alias; while the registry is away, the map last seen under it.

        Raises MapNotFound, MapMismatch, and RegistryUnavailable for a map that was never seen.
        """
        try:
            found = await asyncio.to_thread(self._look_up, name)
        except RegistryUnavailable as error:
            self.away = error.detail
            if name not in self._named:
                raise
            return self._named[name]
        _remember(self._named, name, found)
        return found

    async def seen(self, name: str) -> ServedMap | None:
        """The map with this id or alias, None where it cannot be had."""
        try:
            return await self.named(name)
        except (MapNotFound, RegistryUnavailable):
            return None

    def check(self, served: ServedMap) -> ServedMap:
        """Raises MapMismatch if a map has another shape than the model."""
        scores, info = served.scores, self._info
        if (scores.num_layers, scores.num_heads, scores.num_kv_heads) != (
            info.num_layers,
            info.num_heads,
            info.num_kv_heads,
        ):
            raise MapMismatch(
                f"kv.map: {served.id!r} has {scores.num_layers} layers x {scores.num_heads} heads "
                f"({scores.num_kv_heads} KV heads), the model has {info.num_layers} x {info.num_heads} "
                f"({info.num_kv_heads})",
                param="kv.map",
            )
        return served

    def _look_up(self, name: str | None) -> ServedMap:
        record: MapRecord
        match: Literal["exact", "revision"]
        with self._database.read() as session:
            if name is None:
                record, match = resolve_map(session, self._info.name, self._info.revision, self._alias)
            else:
                try:
                    record, match = find_map(session, self._info.name, name, self._info.revision)
                except MapNotFound as error:
                    raise MapNotFound(
                        f"kv.map: {name!r} is not a map or an alias of {self._info.name!r}", param="kv.map"
                    ) from error
            scores = self._scores.get(record.id)
            if scores is None:
                scores = get_scores(session, record.id)
        # Maps are immutable, so the scores of an id never change. dict operations are atomic between threads.
        _remember(self._scores, record.id, scores)
        return ServedMap(record.id, record.version, match, scores)


class Book(Protocol):
    """What of the registry one model is served with."""

    async def refresh(self) -> None: ...


class Refresher:
    """Refreshes books every `seconds` until cancelled: `run` is a task of the application."""

    def __init__(self, books: Sequence[Book], seconds: float) -> None:
        self._books, self._seconds = books, seconds

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            for book in self._books:
                try:
                    await book.refresh()
                except HeadmapError as error:
                    logger.warning("%s not refreshed: %s", type(book).__name__, error.detail)
                except Exception:  # the next look may do better; the loop must go on
                    logger.exception("%s not refreshed", type(book).__name__)


def _remember(cache: OrderedDict[str, T], key: str, value: T) -> None:
    cache[key] = value
    while len(cache) > _CACHED:
        cache.popitem(last=False)
