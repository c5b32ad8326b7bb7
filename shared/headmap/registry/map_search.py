"""Search in the list of maps: what a map must have, and the order of the list."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, Text, cast, func, or_, select

from headmap.errors import InvalidParameter
from headmap.map_kinds import MapKind
from headmap.registry.tables import Alias, Map

if TYPE_CHECKING:
    from headmap.registry.maps import MapRecord

MapOrder = Literal[
    "created_at", "created_at desc", "version", "version desc", "pages", "pages desc", "hits", "hits desc"
]
NEWEST_FIRST: MapOrder = "created_at desc"
MAP_ORDERS: tuple[str, ...] = get_args(MapOrder)

_UNKNOWN = -1
"""The place of maps without pages or hits: below those that have none."""


@dataclass(frozen=True, kw_only=True)
class MapSearch:
    """Conditions that all hold for a map in the list, and the order.

    `tags`: the map has each of them. `text`: stands in the model's name, the tags or the notes; capitals do not count.
    `min_pages`: maps with as many pages or more; maps of unknown pages are left out.
    """

    model: str | None = None
    revision: str | None = None
    alias: str | None = None
    tags: tuple[str, ...] = ()
    kind: MapKind | None = None
    dataset: str | None = None
    rule: str | None = None
    min_pages: int | None = None
    text: str | None = None
    order_by: MapOrder = NEWEST_FIRST

    @property
    def descending(self) -> bool:
        return self.order_by.endswith(" desc")

    @property
    def key(self) -> ColumnElement[Any]:
        """The column to order by, never NULL: cursors compare it."""
        column: ColumnElement[Any] = getattr(Map, self._field)
        return func.coalesce(column, _UNKNOWN) if self._field in ("pages", "hits") else column

    def key_of(self, record: MapRecord) -> Any:
        """The value of `key` for a map of the list."""
        value = getattr(record, self._field)
        return _UNKNOWN if value is None else value

    def narrow(self, query: Select[Any]) -> Select[Any]:
        """`query` with the conditions, in the order."""
        for name in ("model", "revision", "kind", "dataset", "rule"):
            if (value := getattr(self, name)) is not None:
                query = query.where(getattr(Map, name) == value)
        if self.alias is not None:
            query = query.where(Map.id.in_(select(Alias.map_id).where(Alias.alias == self.alias)))
        if self.min_pages is not None:
            query = query.where(Map.pages >= self.min_pages)
        tags = cast(Map.tags, Text)
        for tag in self.tags:
            # replace() tells capitals apart on every database, which LIKE does not; a quote in a tag is escaped.
            query = query.where(func.replace(tags, json.dumps(tag), "") != tags)
        if self.text is not None:
            written = json.dumps(self.text)[1:-1]
            query = query.where(
                or_(
                    Map.model.icontains(self.text, autoescape=True),
                    Map.notes.icontains(self.text, autoescape=True),
                    tags.icontains(written, autoescape=True),
                )
            )
        columns = (self.key, Map.id)
        return query.order_by(*(column.desc() if self.descending else column.asc() for column in columns))

    @property
    def _field(self) -> str:
        return self.order_by.removesuffix(" desc")


def check_order(order_by: str) -> MapOrder:
    """Raises InvalidParameter for an order that the list of maps does not have."""
    if order_by not in MAP_ORDERS:
        raise InvalidParameter(f"order_by: must be one of {', '.join(MAP_ORDERS)}, got {order_by!r}", param="order_by")
    return order_by  # type: ignore[return-value]  # one of its values, as just checked
