"""Asks the services whether they let a key in, before anything large is read for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
from pydantic import SecretStr

from headmap.errors import RateLimited, Unauthorized, Unavailable
from services.dashboard.sessions import bearer

_SECONDS = 10.0
_PATHS = ("/maps?limit=1", "/v1/models")
_GOOD_FOR_SECONDS = 10.0
_MOST_REMEMBERED = 10_000


class Door:
    """For the services behind the URL `api`. A key that they let in is not asked about again for ten seconds."""

    def __init__(self, client: httpx.AsyncClient, api: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._api, self._clock = client, api, clock
        self._let_in: dict[str, float] = {}

    async def check(self, key: SecretStr | None) -> None:
        """Raises as `ask`."""
        name = "" if key is None else key.get_secret_value()
        if self._clock() - self._let_in.get(name, float("-inf")) < _GOOD_FOR_SECONDS:
            return
        await self.ask(key)
        if len(self._let_in) >= _MOST_REMEMBERED:
            self._let_in.clear()
        self._let_in[name] = self._clock()

    async def ask(self, key: SecretStr | None) -> None:
        """Either service knows the keys; one that is away leaves the question to the other.

        Raises Unauthorized if they refuse the key, RateLimited where it is used more than it may, and Unavailable
        where no service answers.
        """
        for path in _PATHS:
            try:
                answer = await self._client.get(f"{self._api}{path}", headers=bearer(key), timeout=_SECONDS)
            except httpx.HTTPError:
                continue
            if answer.status_code == 401:
                raise Unauthorized(
                    "a key is needed"
                    if key is None
                    else "the server does not know this key; check it for missing characters"
                )
            if answer.status_code == 429:
                raise RateLimited("this key is used more than it may")
            if answer.is_success:
                return
        raise Unavailable("the key cannot be checked now: no service answers")
