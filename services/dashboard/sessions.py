"""API keys by session. Only this process's memory holds them; the browser holds a random id."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

SESSION_COOKIE = "headmap_session"
IDLE_SECONDS = 12 * 3600.0
MOST_SESSIONS = 10_000


@dataclass
class _Session:
    key: SecretStr
    used: float


class Sessions:
    """Keeps at most `most` sessions and drops the one unused longest. Sessions end after `idle_seconds` without use."""

    def __init__(
        self,
        *,
        idle_seconds: float = IDLE_SECONDS,
        most: int = MOST_SESSIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._idle_seconds, self._most, self._clock = idle_seconds, most, clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def open(self, key: SecretStr) -> str:
        """Keep `key`; returns the session's id, which cannot be guessed."""
        session_id = secrets.token_urlsafe(32)
        self._sessions[session_id] = _Session(key, self._clock())
        while len(self._sessions) > self._most:
            self._sessions.popitem(last=False)
        return session_id

    def key(self, session_id: str | None) -> SecretStr | None:
        """The key of a session that has not ended; using it keeps it open."""
        session = self._sessions.get(session_id or "")
        if session_id is None or session is None:
            return None
        now = self._clock()
        if now - session.used > self._idle_seconds:
            del self._sessions[session_id]
            return None
        session.used = now
        self._sessions.move_to_end(session_id)
        return session.key

    def close(self, session_id: str | None) -> None:
        self._sessions.pop(session_id or "", None)


def bearer(key: SecretStr | None) -> dict[str, str]:
    """The header that carries `key`, which is ASCII."""
    return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
