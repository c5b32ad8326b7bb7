"""API keys by session. The cookie holds the key, encrypted, so any replica with the same secret can read it.

Fernet (github.com/fernet/spec: AES-128-CBC, HMAC-SHA256, the time of making) hides the key and refuses what it has not
made. No process keeps a session: signing out takes the cookie from the browser, and a copy of it works until its end.
Revoking the API key ends all its sessions at once, as the services check it with each call.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

SESSION_COOKIE = "headmap_session"
SESSION_SECONDS = 12 * 3600


class Sessions:
    """Sessions of all dashboards that have this `secret`; without one, of this process alone.

    They end SESSION_SECONDS after their begin, by the clocks (seconds since 1970) of the replicas.
    """

    def __init__(self, secret: SecretStr | None = None, *, clock: Callable[[], float] = time.time) -> None:
        text = secrets.token_urlsafe(32) if secret is None else secret.get_secret_value()
        key = hashlib.sha256(b"headmap dashboard session\0" + text.encode()).digest()
        self._fernet, self._clock = Fernet(base64.urlsafe_b64encode(key)), clock

    def open(self, key: SecretStr) -> str:
        """The value of the cookie of a session that begins."""
        return self._fernet.encrypt_at_time(key.get_secret_value().encode(), int(self._clock())).decode("ascii")

    def key(self, cookie: str | None) -> SecretStr | None:
        """The key of a session that has not ended; None for what is no session of ours."""
        try:
            found = self._fernet.decrypt_at_time((cookie or "").encode(), SESSION_SECONDS, int(self._clock()))
        except InvalidToken:
            return None
        return SecretStr(found.decode())


def bearer(key: SecretStr | None) -> dict[str, str]:
    """The header that carries `key`, which is ASCII."""
    return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
