"""Policies: named `kv` settings of a model. Requests and clients use the name to choose what the cache keeps.

Every write makes a version that never changes, and the name refers to the newest version. A deletion ends the name and
is itself a version, without a `kv`. So the history is complete and no number is used twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from headmap.errors import InvalidParameter, MapMismatch, MapNotFound, PolicyChanged, PolicyNotFound, Unavailable
from headmap.kvcache.budget_names import names_a_budget
from headmap.registry.aliases import MAX_ALIAS, is_alias, pointed_at
from headmap.registry.paging import Page, after, page_of
from headmap.registry.session import changed, utc_now
from headmap.registry.tables import Map, Policy, PolicyVersion

RESERVED = ("history",)
"""Names that would be taken for a part of the policy's address."""

_VERSION_TRIES = 100


@dataclass(frozen=True)
class PolicyRecord:
    """One version of a policy."""

    model: str
    name: str
    version: int
    kv: dict[str, Any] | None
    """Method, budget or ratio, and the rest, as requests give them; None where this version is a deletion."""
    evaluation_id: str | None
    created_at: datetime
    created_by: str | None
    """`key NAME` or `cli NAME`; None where callers need no key."""


def check_policy_name(name: str) -> str:
    """Check a policy's name. Raises InvalidParameter if it is malformed or ambiguous."""
    reason = None
    if not is_alias(name):
        reason = f"a name has at most {MAX_ALIAS} letters, digits, dots, dashes and underscores, no mark first"
    elif name in RESERVED:
        reason = "/policies/MODEL/NAME/history is the address of a history"
    elif names_a_budget(name):
        reason = "MODEL@METHOD and MODEL@METHOD-RATIO mean a budget"
    if reason is not None:
        raise InvalidParameter(f"policy: {name!r} cannot name a policy: {reason}", param="policy")
    return name


def put_policy(
    session: Session,
    model: str,
    name: str,
    kv: Mapping[str, Any],
    *,
    by: str | None,
    evaluation_id: str | None = None,
    expected: frozenset[str] | None = None,
    absent: bool = False,
) -> tuple[PolicyRecord, bool]:
    """File the next version of a policy and let the name refer to it. Also returns whether the name is new.

    `kv`: already checked, except its `map`, an id or alias of the model. `expected`: versions; the policy must be at
    one of them, and `"*"` means any. `absent`: the policy must not exist yet. Raises InvalidParameter for a bad name,
    MapNotFound, MapMismatch for the id of another model's map, PolicyChanged if `expected` or `absent` does not hold,
    and Unavailable if other writers took the version at every try.
    """
    check_policy_name(name)
    now = utc_now(session)
    for _ in range(_VERSION_TRIES):
        there = _check(session, model, name, expected, absent=absent)
        map_id = _held_map(session, model, kv.get("map"))
        row = _next_version(session, model, name, now, by)
        row.kv, row.evaluation_id = dict(kv), evaluation_id
        try:
            with session.begin_nested():
                session.add(row)
                session.flush()
                session.merge(Policy(model=model, name=name, version_id=row.id, map_id=map_id))
        except IntegrityError:
            continue  # another took this version, or deleted the map: the next look sees it
        return _record(row), not there
    raise Unavailable(f"policy: too many versions of {name!r} of {model!r} are being written at once")


def delete_policy(
    session: Session, model: str, name: str, *, by: str | None, expected: frozenset[str] | None = None
) -> None:
    """End a policy's name; its versions stay. Raises PolicyNotFound, and PolicyChanged as `put_policy` does."""
    if not _check(session, model, name, expected):
        raise _not_found(model, name)
    changed(session, delete(Policy).where(Policy.model == model, Policy.name == name))
    session.add(_next_version(session, model, name, utc_now(session), by))
    session.flush()


def get_policy(session: Session, model: str, name: str) -> PolicyRecord:
    """Return the newest version of a policy. Raises PolicyNotFound."""
    row = session.scalar(_current().where(Policy.model == model, Policy.name == name)) if is_alias(name) else None
    if row is None:
        raise _not_found(model, name)
    return _record(row)


def list_policies(
    session: Session, *, model: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[PolicyRecord]:
    """List the newest versions of policies, newest first. Raises InvalidParameter for a malformed cursor."""
    query = _current()
    if model is not None:
        query = query.where(Policy.model == model)
    return _page(session, query, limit, cursor)


def policy_history(
    session: Session, model: str, name: str, *, limit: int = 50, cursor: str | None = None
) -> Page[PolicyRecord]:
    """List all versions of a policy, newest first, also after its deletion.

    Raises PolicyNotFound if the policy never existed, and InvalidParameter for a malformed cursor.
    """
    query = select(PolicyVersion).where(PolicyVersion.model == model, PolicyVersion.name == name)
    page = _page(session, query, limit, cursor)
    if not page.items and cursor is None:
        raise _not_found(model, name)
    return page


def _current() -> Select[PolicyVersion]:
    return select(PolicyVersion).join(Policy, Policy.version_id == PolicyVersion.id)


def _check(session: Session, model: str, name: str, expected: frozenset[str] | None, *, absent: bool = False) -> bool:
    """Lock the policy until the transaction ends, and return whether it exists. Raises PolicyChanged."""
    query = _current().where(Policy.model == model, Policy.name == name)
    row = session.scalar(query.with_for_update(of=Policy))
    if absent and row is not None:
        raise PolicyChanged(
            f"If-None-Match: policy {name!r} of model {model!r} is there, at version {row.version}",
            param="If-None-Match",
        )
    if expected is not None and (row is None or not expected & {"*", str(row.version)}):
        where = "there is none" if row is None else f"it is at version {row.version}"
        raise PolicyChanged(
            f"If-Match: policy {name!r} of model {model!r} is not as you last saw it; {where}", param="If-Match"
        )
    return row is not None


def _held_map(session: Session, model: str, name: str | None) -> str | None:
    """Return the map's id if `name` is an id; None if `name` is an alias or missing."""
    if name is None:
        return None
    owner = session.scalar(select(Map.model).where(Map.id == name)) if is_alias(name) else None
    if owner == model:
        return name
    if is_alias(name) and pointed_at(session, model, name) is not None:
        return None
    if owner is not None:
        raise MapMismatch(f"kv.map: {name!r} is a map of {owner!r}, not of {model!r}", param="kv.map")
    raise MapNotFound(f"kv.map: {name!r} is no map or alias of {model!r}", param="kv.map")


def _next_version(session: Session, model: str, name: str, now: datetime, by: str | None) -> PolicyVersion:
    newest = session.scalar(
        select(func.max(PolicyVersion.version)).where(PolicyVersion.model == model, PolicyVersion.name == name)
    )
    return PolicyVersion(model=model, name=name, version=(newest or 0) + 1, created_at=now, created_by=by)


def _page(session: Session, query: Select[PolicyVersion], limit: int, cursor: str | None) -> Page[PolicyRecord]:
    query = query.order_by(PolicyVersion.created_at.desc(), PolicyVersion.id.desc())
    if cursor is not None:
        query = query.where(after(cursor, PolicyVersion.created_at, PolicyVersion.id))
    page = page_of(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: (row.created_at, str(row.id)))
    return Page([_record(row) for row in page.items], page.next_cursor)


def _record(row: PolicyVersion) -> PolicyRecord:
    return PolicyRecord(row.model, row.name, row.version, row.kv, row.evaluation_id, row.created_at, row.created_by)


def _not_found(model: str, name: str) -> PolicyNotFound:
    return PolicyNotFound(f"policy: model {model!r} has no policy {name!r}", param="policy")
