"""Aliases: names that point at a model's maps, and the record of who moved them.

A model is served with the map of its alias `default`. People decide which map production uses, so no import or profile
moves an alias that somebody has set, unless it is told to. An import sets `default` if there is none. A profile
also replaces a `default` that only the package has set.

Aliases point at visual maps only. A request can name another map by its id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from headmap.errors import AliasMoved, AliasNotFound, InvalidParameter
from headmap.map_kinds import VISUAL
from headmap.registry.paging import Page, after, page_of
from headmap.registry.session import changed, utc_now
from headmap.registry.tables import Alias, AliasMove

DEFAULT_ALIAS = "default"
ALIAS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MAX_ALIAS = 64

PACKAGE = "package"
"""Who moved an alias when the bundled map was filed: nobody has chosen yet."""

Promote = bool | Literal["auto"]
"""Whether a map takes `default`: always, never, or (auto) where its model has none."""


@dataclass(frozen=True)
class Move:
    """An alias that was pointed at a map, moved to another, or deleted (`map_id` is None)."""

    id: int
    alias: str
    map_id: str | None
    previous: str | None
    moved_by: str | None
    """`key NAME`, `job ID`, `cli NAME` or `package`; None where callers need no key."""
    moved_at: datetime


def is_alias(text: str) -> bool:
    """Whether `text` can be an alias. A map's id has the form of an alias too."""
    return len(text) <= MAX_ALIAS and re.fullmatch(ALIAS_PATTERN, text) is not None


def pointed_at(session: Session, model: str, alias: str, *, lock: bool = False) -> str | None:
    """Return the id of the map that an alias points at, or None if there is no such alias.

    With `lock`, nobody else can move the alias until the transaction ends.
    """
    query = select(Alias.map_id).where(Alias.model == model, Alias.alias == alias)
    return session.scalar(query.with_for_update() if lock else query)


def nobody_chose(session: Session, model: str) -> bool:
    """Whether the model has no `default`, or only the package's own `default`, which nobody has moved since."""
    moves = select(AliasMove.moved_by).where(AliasMove.model == model, AliasMove.alias == DEFAULT_ALIAS)
    newest = moves.order_by(AliasMove.id.desc()).limit(1)
    return pointed_at(session, model, DEFAULT_ALIAS) is None or session.scalar(newest) == PACKAGE


def check_promote(kind: str, promote: Promote) -> None:
    """Raises InvalidParameter if a map shall take `default` and is of a kind that takes no alias."""
    if promote is True and kind != VISUAL:
        raise InvalidParameter(
            f"promote: must be false or auto for a map of kind {kind!r}, which takes no alias, got true",
            param="promote",
        )


def take_default(session: Session, model: str, map_id: str, promote: Promote, *, by: str | None) -> bool:
    """Point `default` at a map of the model if `promote` allows it. Returns whether it did."""
    if promote is True:
        point(session, model, DEFAULT_ALIAS, map_id, by=by)
    elif promote == "auto":
        # This look takes no lock: a transaction that files several maps would block all other writers.
        there = pointed_at(session, model, DEFAULT_ALIAS) is not None
        return not there and _make(session, model, DEFAULT_ALIAS, map_id, by)
    return bool(promote)


def point(
    session: Session, model: str, alias: str, map_id: str, *, by: str | None, expected: frozenset[str] | None = None
) -> None:
    """Point an alias of the model at one of its maps, and record it. Does nothing if it already points there.

    `expected`: ids of maps; the alias must point at one of them now, and `"*"` means any map. Raises AliasMoved
    otherwise.
    """
    before = pointed_at(session, model, alias, lock=True)
    _check(model, alias, before, expected)
    if before == map_id or (before is None and _make(session, model, alias, map_id, by)):
        return
    before = pointed_at(session, model, alias, lock=True)
    _check(model, alias, before, expected)
    session.merge(Alias(model=model, alias=alias, map_id=map_id, updated_at=utc_now(session)))
    _record(session, model, alias, map_id, before, by)


def remove(
    session: Session, model: str, alias: str, map_id: str, *, by: str | None, expected: frozenset[str] | None = None
) -> None:
    """Delete an alias that points at this map, and record it.

    Raises AliasNotFound if it does not, and AliasMoved as `point` does.
    """
    before = pointed_at(session, model, alias, lock=True)
    _check(model, alias, before, expected)
    if before != map_id:
        where = "there is none" if before is None else f"it points at map {before!r}"
        raise AliasNotFound(
            f"alias: {alias!r} of model {model!r} does not point at map {map_id!r}; {where}", param="alias"
        )
    changed(session, delete(Alias).where(Alias.model == model, Alias.alias == alias))
    _record(session, model, alias, None, map_id, by)


def history(
    session: Session, model: str, *, alias: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[Move]:
    """List the moves of a model's aliases, newest first. Raises InvalidParameter for a malformed cursor."""
    query = select(AliasMove).where(AliasMove.model == model).order_by(AliasMove.moved_at.desc(), AliasMove.id.desc())
    if alias is not None:
        query = query.where(AliasMove.alias == alias)
    if cursor is not None:
        query = query.where(after(cursor, AliasMove.moved_at, AliasMove.id))
    rows = session.scalars(query.limit(limit + 1))
    moves = [Move(row.id, row.alias, row.map_id, row.previous, row.moved_by, row.moved_at) for row in rows]
    return page_of(moves, limit, lambda move: (move.moved_at, str(move.id)))


def _make(session: Session, model: str, alias: str, map_id: str, by: str | None) -> bool:
    """Make an alias that points at a map. Returns False if another transaction made the alias meanwhile."""
    try:
        with session.begin_nested():
            session.add(Alias(model=model, alias=alias, map_id=map_id, updated_at=utc_now(session)))
    except IntegrityError:
        return False
    _record(session, model, alias, map_id, None, by)
    return True


def _record(session: Session, model: str, alias: str, map_id: str | None, previous: str | None, by: str | None) -> None:
    session.add(
        AliasMove(model=model, alias=alias, map_id=map_id, previous=previous, moved_by=by, moved_at=utc_now(session))
    )
    session.flush()


def _check(model: str, alias: str, before: str | None, expected: frozenset[str] | None) -> None:
    if expected is None or before in expected or ("*" in expected and before is not None):
        return
    where = "there is none" if before is None else f"it points at map {before!r}"
    raise AliasMoved(
        f"If-Match: alias {alias!r} of model {model!r} is not where you last saw it; {where}", param="If-Match"
    )
