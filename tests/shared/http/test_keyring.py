"""Whom the key ring lets in, and for how long it does without the registry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from headmap.errors import RegistryUnavailable, Unauthorized
from headmap.http.keyring import KeyRing
from headmap.keys import ApiKey, digest_of
from headmap.settings import Settings

ALWAYS = 1e-9
CI = ApiKey("1", "ci", digest_of("ci-key"))
REVOKED = replace(CI, revoked_at=datetime.now(UTC))


class Registry:
    """`keys` are what it holds; `away` makes it raise; while `stuck` is set it does not answer."""

    def __init__(self, *keys: ApiKey) -> None:
        self.keys = list(keys)
        self.away = False
        self.looks = 0
        self.free = threading.Event()
        self.free.set()

    def __call__(self) -> Sequence[ApiKey]:
        self.looks += 1
        self.free.wait(20)
        if self.away:
            raise RegistryUnavailable("away")
        return list(self.keys)


def ring(registry: Registry, **settings: object) -> KeyRing:
    return KeyRing(Settings(**{"key_refresh_seconds": ALWAYS, **settings}), registry)  # type: ignore[arg-type]


async def test_no_key_has_ever_been_made_so_anybody_may_call() -> None:
    keys = ring(Registry())
    assert await keys.admit(None) is None
    assert await keys.admit("anything") is None
    assert not keys.asks


async def test_the_first_key_closes_the_door_at_the_next_look() -> None:
    registry = Registry()
    keys = ring(registry)
    assert await keys.admit(None) is None
    registry.keys.append(CI)
    with pytest.raises(Unauthorized):
        await keys.admit(None)
    assert await keys.admit("ci-key") == CI
    assert keys.asks


@pytest.mark.parametrize("access", ["auto", "keys"])
async def test_an_empty_key_is_never_let_in(access: str) -> None:
    stored = ring(Registry(replace(CI, digest=digest_of(""))), access=access)
    given = ring(Registry(), access=access, api_keys=(SecretStr("x"),))
    for keys in (stored, given):
        for key in ("", None):
            with pytest.raises(Unauthorized):
                await keys.admit(key)


async def test_revoking_the_last_key_opens_nothing() -> None:
    keys = ring(Registry(REVOKED))
    for key in (None, "ci-key"):
        with pytest.raises(Unauthorized):
            await keys.admit(key)


async def test_a_revoked_key_is_refused_at_the_next_look() -> None:
    registry = Registry(CI)
    keys = ring(registry)
    assert await keys.admit("ci-key") == CI
    registry.keys[:] = [REVOKED]
    with pytest.raises(Unauthorized):
        await keys.admit("ci-key")


async def test_the_registry_is_asked_once_in_a_while_only() -> None:
    registry = Registry(CI)
    keys = ring(registry, key_refresh_seconds=60)
    await asyncio.gather(*(keys.admit("ci-key") for _ in range(20)))
    assert registry.looks == 1


async def test_keys_of_the_settings_need_no_registry() -> None:
    registry = Registry()
    registry.away = True
    keys = ring(registry, api_keys=(SecretStr("one"), SecretStr("zwölf")))
    for number, key in enumerate(("one", "zwölf"), start=1):
        found = await keys.admit(key)
        assert found is not None
        assert found.id == f"settings-{number}"
    assert registry.looks == 0
    with pytest.raises(Unauthorized):
        await keys.admit(None)
    with pytest.raises(RegistryUnavailable):  # it may be one of the registry's
        await keys.admit("another")


async def test_settings_and_registry_let_in_together() -> None:
    keys = ring(Registry(CI), api_keys=(SecretStr("one"),))
    assert await keys.admit("ci-key") == CI
    with pytest.raises(Unauthorized):
        await keys.admit("neither")


async def test_a_registry_that_goes_away_keeps_nobody_out() -> None:
    registry = Registry(CI)
    keys = ring(registry)
    await keys.admit("ci-key")
    registry.away = True
    for _ in range(3):
        assert await keys.admit("ci-key") == CI
        with pytest.raises(Unauthorized):
            await keys.admit(None)


async def test_but_not_for_ever() -> None:
    registry, now = Registry(CI), [0.0]
    keys = KeyRing(Settings(key_refresh_seconds=1, key_max_age_seconds=60), registry, lambda: now[0])
    assert await keys.admit("ci-key") == CI
    registry.away = True
    now[0] = 59
    assert await keys.admit("ci-key") == CI
    now[0] = 61
    with pytest.raises(RegistryUnavailable, match="too long"):
        await keys.admit("ci-key")
    with pytest.raises(Unauthorized):
        await keys.admit("another")


async def test_an_open_door_stays_open_while_the_registry_is_away() -> None:
    registry = Registry()
    keys = ring(registry, key_max_age_seconds=ALWAYS)
    await keys.admit(None)
    registry.away = True
    assert await keys.admit(None) is None


async def test_not_knowing_whether_there_are_keys_is_no_open_door() -> None:
    registry = Registry(CI)
    registry.away = True
    keys = ring(registry)
    for key in (None, "ci-key"):
        with pytest.raises(RegistryUnavailable, match="accepts the keys in HEADMAP_API_KEYS; with HEADMAP_ACCESS=open"):
            await keys.admit(key)
    assert await ring(registry, access="open").admit(None) is None


async def test_access_keys_asks_before_there_is_one() -> None:
    keys = ring(Registry(), access="keys")
    assert keys.asks
    with pytest.raises(Unauthorized):
        await keys.admit(None)


async def test_nobody_waits_for_a_registry_that_hangs_once_it_is_known_to() -> None:
    registry = Registry(CI)
    keys = ring(registry)
    await keys.admit("ci-key")
    registry.free.clear()
    try:
        assert await keys.admit("ci-key") == CI  # waits its second
        looks = registry.looks
        async with asyncio.timeout(0.9):
            for _ in range(50):
                await keys.admit("ci-key")
        assert registry.looks == looks
    finally:
        registry.free.set()
