"""The policies that a model is served with: they follow the registry, and stay while it is away."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from headmap.errors import HeadmapError, PolicyNotFound, RegistryUnavailable
from headmap.http.invalid import invalid_parameter
from headmap.http.kv_body import KVBody
from headmap.kvcache.plan import KVRequest
from headmap.registry.policies import PolicyRecord, get_policy, list_policies
from headmap.registry.session import Database
from services.inference.maps import MapBook

logger = logging.getLogger(__name__)

_PAGE = 200
_TOLD = 8
"""So many names an error lists."""


@dataclass(frozen=True)
class ServedPolicy:
    """A policy as requests use it. `map`: id or alias of the map it names."""

    name: str
    version: int
    kv: KVRequest
    map: str | None
    body: Mapping[str, object] = field(repr=False)
    """`kv` as a request would give it."""
    created_at: datetime


class PolicyBook:
    """The policies of one served model. Used on the event loop; SQL runs in threads.

    A request takes a policy as the last refresh saw it; only one that was not seen is looked up for the request.
    """

    def __init__(self, database: Database, model: str, maps: MapBook) -> None:
        self._database, self._model, self._maps = database, model, maps
        self._served: dict[str, ServedPolicy] = {}

    @property
    def served(self) -> list[ServedPolicy]:
        """By name."""
        return [self._served[name] for name in sorted(self._served)]

    async def refresh(self) -> None:
        """Read all policies again, and those of their maps that were not seen yet.

        What is served stays as it is while the registry is away; `maps` tells that it is.
        """
        try:
            found = {one.name: one for one in await asyncio.to_thread(self._read_all)}
            for one in found.values():
                if self._served.get(one.name) != one:
                    logger.info("policy of %s: %s, version %d", self._model, one.name, one.version)
                    await self._load_map(one)
        except RegistryUnavailable:
            return
        for name in self._served.keys() - found.keys():
            logger.info("policy of %s: %s is deleted", self._model, name)
        self._served = found

    async def named(self, name: str, field: str) -> ServedPolicy:
        """The policy of this name; `field` is where it was named.

        Raises PolicyNotFound, telling the near name where there is one, and RegistryUnavailable for one that was never
        seen while the registry is away.
        """
        known = self._served.get(name)
        if known is not None:
            return known
        try:
            found = _served(await asyncio.to_thread(self._read, name))
        except PolicyNotFound:
            near = difflib.get_close_matches(name, self._served, n=1)
            names = ", ".join(sorted(self._served)[:_TOLD]) or "none"
            hint = f"did you mean {near[0]!r}?" if near else f"there are {names}"
            raise PolicyNotFound(
                f"{field}: model {self._model!r} has no policy {name!r}; {hint}", param=field
            ) from None
        self._served[name] = found
        return found

    async def _load_map(self, policy: ServedPolicy) -> None:
        """So that the map can be served from while the registry is away."""
        if policy.map is None:
            return
        if await self._maps.seen(policy.map) is None:
            logger.warning("policy %s of %s: its map %r cannot be had", policy.name, self._model, policy.map)

    def _read(self, name: str) -> PolicyRecord:
        with self._database.read() as session:
            return get_policy(session, self._model, name)

    def _read_all(self) -> list[ServedPolicy]:
        found, cursor = [], None
        with self._database.read() as session:
            while True:
                page = list_policies(session, model=self._model, limit=_PAGE, cursor=cursor)
                found += page.items
                cursor = page.next_cursor
                if cursor is None:
                    break
        served = []
        for record in found:
            try:
                served.append(_served(record))
            except HeadmapError as error:  # written by other code than this
                logger.warning("policy %s of %s cannot be served: %s", record.name, self._model, error.detail)
        return served


def _served(record: PolicyRecord) -> ServedPolicy:
    """Raises InvalidParameter for a `kv` that this code does not know."""
    kv = record.kv or {}
    try:
        body = KVBody.model_validate(kv)
    except ValidationError as error:
        raise invalid_parameter(error.errors(), kv) from error
    return ServedPolicy(record.name, record.version, body.asked(), body.map, kv, record.created_at)


def told_policy(policy: ServedPolicy) -> dict[str, object]:
    """Its name, its version, and what it says."""
    return {"policy": policy.name, "policy_version": policy.version, **policy.body}
