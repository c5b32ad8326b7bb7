"""API keys in the registry: made, listed, revoked. Only their digests are stored."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from headmap.errors import InvalidParameter, KeyNameTaken, KeyNotFound
from headmap.keys import DAILY_WORK, ApiKey, Scope, digest_of, make_key, scopes_of
from headmap.registry import tables
from headmap.registry.session import Database, utc_now

_LONGEST_NAME = 64
_UNREAD_SECONDS = 60.0


def create_key(
    session: Session,
    name: str,
    *,
    scopes: frozenset[Scope] = DAILY_WORK,
    requests_per_minute: int | None = None,
    concurrent_requests: int | None = None,
) -> tuple[ApiKey, str]:
    """File a key called `name`. Returns the stored entry and the key itself, which cannot be shown again.

    Raises InvalidParameter for a blank, too long or unprintable name, and KeyNameTaken if a key in use has the name.
    """
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidParameter(f"name: must be 1 to {_LONGEST_NAME} printable characters, got {name!r}", param="name")
    key = make_key()
    row = tables.ApiKey(
        id=uuid.uuid4().hex,
        name=name,
        active_name=name,
        digest=digest_of(key).hex(),
        scopes=",".join(sorted(scopes)),
        requests_per_minute=requests_per_minute,
        concurrent_requests=concurrent_requests,
        created_at=utc_now(session),
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        raise KeyNameTaken(f"name: {name!r} is the name of a key in use; revoke it first", param="name") from error
    return _record(row), key


def list_keys(session: Session) -> list[ApiKey]:
    """List all keys, oldest first. Revoked keys are included, with the time of their revocation."""
    query = select(tables.ApiKey).order_by(tables.ApiKey.created_at, tables.ApiKey.id)
    return [_record(row) for row in session.scalars(query)]


def read_keys(database: Database) -> list[ApiKey]:
    """Run `list_keys` in its own transaction. Raises RegistryUnavailable."""
    with database.read() as session:
        return list_keys(session)


class KeyReader:
    """Reads all keys, again only when some were added or revoked, and once a minute: a restored backup shows no change.

    Call it from one thread. It returns the same tuple while nothing has changed, and raises RegistryUnavailable.
    """

    def __init__(self, database: Callable[[], Database], clock: Callable[[], float] = time.monotonic) -> None:
        """`database` is asked at each call."""
        self._database, self._clock = database, clock
        self._mark: tuple[object, ...] | None = None
        self._read_at = 0.0
        self._keys: tuple[ApiKey, ...] = ()

    def __call__(self) -> tuple[ApiKey, ...]:
        now = self._clock()
        with self._database().read() as session:
            # Counts, because a key that is revoked first may be committed last, with an earlier time.
            row = tables.ApiKey
            query = select(
                func.count(), func.count(row.revoked_at), func.max(row.created_at), func.max(row.revoked_at)
            ).select_from(row)
            mark = tuple(session.execute(query).one())
            if mark != self._mark or now - self._read_at > _UNREAD_SECONDS:
                self._keys, self._mark, self._read_at = tuple(list_keys(session)), mark, now
        return self._keys


def revoke_key(session: Session, name: str) -> ApiKey:
    """Revoke the active key with this name or id. Raises KeyNotFound."""
    query = select(tables.ApiKey).where(
        tables.ApiKey.active_name.is_not(None), or_(tables.ApiKey.active_name == name, tables.ApiKey.id == name)
    )
    # A name may equal another key's id; the name is what people give.
    rows = sorted(session.scalars(query), key=lambda row: row.active_name != name)
    if not rows:
        raise KeyNotFound(f"key: no key in use is called {name!r}", param="key")
    row = rows[0]
    row.active_name = None
    row.revoked_at = utc_now(session)
    session.flush()
    return _record(row)


def _record(row: tables.ApiKey) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        digest=bytes.fromhex(row.digest),
        scopes=scopes_of(row.scopes.split(",")),
        requests_per_minute=row.requests_per_minute,
        concurrent_requests=row.concurrent_requests,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
