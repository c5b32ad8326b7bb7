"""API keys: what they look like, what they may do, and what is stored of them. Knows no SQL and no HTTP."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

_PREFIX = "headmap-"
_BYTES = 32


class Scope(StrEnum):
    """What a key may do besides reading, which any key may. `admin` includes the other two."""

    INFER = "infer"
    SCORE = "score"
    ADMIN = "admin"


EVERYTHING = frozenset({Scope.ADMIN})
DAILY_WORK = frozenset({Scope.INFER, Scope.SCORE})
"""What a key may do that was made without a word about it: all but what changes how others are served."""


def scopes_of(names: Iterable[object]) -> frozenset[Scope]:
    """The scopes with these names. Raises ValueError that names the first that is none, or if there is no name."""
    known = {scope.value: scope for scope in Scope}
    found = list(names)
    for name in found:
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{name!r} is no scope; there are {', '.join(known)}")
    if not found:
        raise ValueError(f"no scope is given; there are {', '.join(known)}")
    return frozenset(known[str(name)] for name in found)


@dataclass(frozen=True)
class ApiKey:
    """A key as stored: by its digest, so that readers of the registry cannot call. Limits replace the settings'."""

    id: str
    name: str
    digest: bytes
    scopes: frozenset[Scope] = frozenset()
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None

    def may(self, scope: Scope) -> bool:
        return bool(self.scopes & {scope, Scope.ADMIN})


def make_key() -> str:
    """A key of 256 random bits, with a prefix by which scanners of leaked secrets can know it."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def digest_of(key: str) -> bytes:
    """SHA-256. Slow hashes protect passwords that people choose; nobody can try out 256 random bits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def in_use(keys: Iterable[ApiKey]) -> dict[bytes, ApiKey]:
    """The keys that are not revoked, by digest.

    A look-up tells by its time how a digest begins, and nobody can make a key for a wished beginning of its SHA-256:
    it need not take constant time.
    """
    return {key.digest: key for key in keys if key.revoked_at is None}
