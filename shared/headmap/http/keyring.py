"""The valid API keys, from the settings and the registry. The registry is read again every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from headmap.errors import HeadmapError, RegistryUnavailable, Unauthorized
from headmap.keys import ApiKey, digest_of, in_use
from headmap.settings import Settings

logger = logging.getLogger(__name__)

StoredKeys = Callable[[], Sequence[ApiKey]]
"""All keys of the registry, revoked ones too. Blocks; raises RegistryUnavailable.

It returns the same object as before if none has changed.
"""

_PATIENCE_SECONDS = 1.0
_FIRST_PATIENCE_SECONDS = 5.0  # longer, because no earlier reading can admit anybody


class KeyRing:
    """Identifies callers by their keys. Use it on the event loop; a thread reads the registry.

    A new or revoked key takes effect after `settings.key_refresh_seconds`. While the registry is unavailable, the keys
    read last stay valid for `settings.key_max_age_seconds`. A call waits at most one second for the registry, and not
    at all once it is known to be unavailable.
    """

    def __init__(self, settings: Settings, stored: StoredKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._stored, self._clock = settings, stored, clock
        self._own = in_use(
            ApiKey(f"settings-{number}", f"settings-{number}", digest_of(key.get_secret_value()), key.scopes)
            for number, key in enumerate(settings.api_keys, start=1)
        )
        self._read: Sequence[ApiKey] | None = None
        self._in_use: dict[bytes, ApiKey] = {}
        self._read_at = self._look_at = float("-inf")
        self._away = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._look: Future[None] | None = None

    @property
    def asks(self) -> bool:
        """Whether a call needs a key, according to the settings and the last reading of the registry."""
        if self._settings.access == "open":
            return False
        return bool(self._own) or bool(self._read) or self._settings.access == "keys"

    async def admit(self, key: str | None) -> ApiKey | None:
        """Return the stored entry of this key, or None if calls need no key.

        Raises Unauthorized, and RegistryUnavailable if the answer needs the registry and it does not answer.
        """
        if self._settings.access == "open":
            return None
        key = key or None  # an empty key counts as no key, whatever is stored
        digest = digest_of(key or "")
        own = self._own.get(digest)
        if own is not None and key is not None:
            return own
        await self._refresh()
        if self._read is None:
            if self._own and key is None:
                raise _unauthorized()
            raise RegistryUnavailable(
                "API keys cannot be checked: the registry has not answered since the start. Until it does, the server "
                "accepts the keys in HEADMAP_API_KEYS; with HEADMAP_ACCESS=open it accepts every call"
            )
        if not self.asks:
            return None
        found = self._in_use.get(digest)
        if found is None or key is None:
            raise _unauthorized()
        if self._clock() - self._read_at > self._settings.key_max_age_seconds:
            raise RegistryUnavailable("API keys cannot be checked: the registry has been away for too long")
        return found

    async def _refresh(self) -> None:
        """Read the registry if a reading is due, and wait for it unless it is known to be unavailable."""
        look = self._look
        if (look is None or look.done()) and self._clock() >= self._look_at:
            look = self._look = self._pool.submit(self._load)
        if look is not None and not look.done() and (self._read is None or not self._away):
            patience = _FIRST_PATIENCE_SECONDS if self._read is None else _PATIENCE_SECONDS
            await asyncio.wait([asyncio.wrap_future(look)], timeout=patience)
            if not look.done():
                self._away = True

    def _load(self) -> None:
        asked_at = self._clock()
        try:
            keys = self._stored()
        except HeadmapError as error:
            if not self._away:
                known = "only those of HEADMAP_API_KEYS count" if self._read is None else "those read last count"
                logger.warning("API keys: %s; until it answers, %s", error.detail, known)
            self._away = True
        except Exception:
            logger.exception("API keys: not read")
            self._away = True
        else:
            if keys is not self._read:
                self._in_use = in_use(keys)
            self._read, self._read_at, self._away = keys, asked_at, False
        finally:
            self._look_at = self._clock() + self._settings.key_refresh_seconds


def _unauthorized() -> Unauthorized:
    return Unauthorized("Authorization: Bearer KEY is needed, with a key of this deployment")
