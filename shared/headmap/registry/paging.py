"""Opaque cursors over rows ordered newest first by (created_at, id)."""

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


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Items and the cursor of the next page, None on the last."""

    items: list[Item]
    next_cursor: str | None


def encode_cursor(created_at: datetime, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def after(
    cursor: str, created_at: InstrumentedAttribute[datetime], row_id: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """The condition for rows after `cursor`. Raises InvalidParameter for one that no list gave out."""
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
        stamp, separator, last = text.partition("|")
        time = datetime.fromisoformat(stamp).astimezone(UTC)
        row = row_id.type.python_type(last)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise InvalidParameter(f"cursor: {cursor!r} is not a cursor of this list", param="cursor") from error
    if not separator or not last.isalnum():
        raise InvalidParameter(f"cursor: {cursor!r} is not a cursor of this list", param="cursor")
    return or_(created_at < time, and_(created_at == time, row_id < row))


def page_of(rows: Sequence[Item], limit: int, key: Callable[[Item], Any]) -> Page[Item]:
    """Make the page from `rows`, queried with limit + 1. `key` returns a row's (created_at, id)."""
    items = list(rows[:limit])
    return Page(items, encode_cursor(*key(items[-1])) if len(rows) > limit else None)
