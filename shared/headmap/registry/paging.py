"""Opaque cursors over rows ordered by (key, id), both in one direction: newest first by (created_at, id) as a rule."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.orm import InstrumentedAttribute

from headmap.errors import InvalidParameter

Item = TypeVar("Item")
_MOST = 2**63


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Items and the cursor of the next page, None on the last."""

    items: list[Item]
    next_cursor: str | None


def encode_cursor(key: datetime | int, row_id: str, order: str = "") -> str:
    value = key.isoformat() if isinstance(key, datetime) else key
    text = f"{value}|{row_id}" + (f"|{order}" if order else "")
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def after(
    cursor: str,
    key: InstrumentedAttribute[datetime] | ColumnElement[Any],
    row_id: InstrumentedAttribute[Any],
    *,
    order: str = "",
    descending: bool = True,
) -> ColumnElement[bool]:
    """The condition for rows after `cursor`. `key`: a time, or an integer of at most 64 bits.

    `order`: a name for the order, where a list has several. Raises InvalidParameter for a cursor that no list gave out
    in this order.
    """
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
        written, last, *others = text.split("|")
        is_time = key.type.python_type is not int
        value = datetime.fromisoformat(written).astimezone(UTC) if is_time else int(written)
        row = row_id.type.python_type(last)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise _no_cursor(cursor) from error
    if not last.isalnum() or others != ([order] if order else []):
        raise _no_cursor(cursor)
    if isinstance(value, int) and not -_MOST <= value < _MOST:
        raise _no_cursor(cursor)
    if descending:
        return or_(key < value, and_(key == value, row_id < row))
    return or_(key > value, and_(key == value, row_id > row))


def page_of(rows: Sequence[Item], limit: int, key: Callable[[Item], tuple[Any, str]], order: str = "") -> Page[Item]:
    """Make the page from `rows`, queried with limit + 1. `key` returns a row's (key, id)."""
    items = list(rows[:limit])
    if len(rows) <= limit:
        return Page(items, None)
    value, row_id = key(items[-1])
    return Page(items, encode_cursor(value, row_id, order))


def _no_cursor(cursor: str) -> InvalidParameter:
    return InvalidParameter(f"cursor: {cursor!r} is not a cursor of this list", param="cursor")
