"""How much a key may ask for."""

from __future__ import annotations

import time

import pytest

from headmap.errors import RateLimited
from headmap.http.limits import KeyLimits
from headmap.keys import ApiKey
from headmap.settings import Settings

ONE = ApiKey("1", "one", b"1")
TWO = ApiKey("2", "two", b"2", requests_per_minute=1, concurrent_requests=1)


async def passes(limits: KeyLimits, key: ApiKey) -> bool:
    try:
        await limits.enter(key)
    except RateLimited:
        return False
    return True


async def test_without_limits_everything_passes() -> None:
    limits = KeyLimits(Settings())
    assert all([await passes(limits, ONE) for _ in range(100)])


async def test_requests_a_minute_are_counted_for_each_key() -> None:
    limits = KeyLimits(Settings(key_requests_per_minute=3))
    other = ApiKey("3", "other", b"3")
    assert [await passes(limits, ONE) for _ in range(5)] == [True, True, True, False, False]
    assert await passes(limits, other)
    with pytest.raises(RateLimited, match=r"'one': more than 3 requests in a minute") as refused:
        await limits.enter(ONE)
    assert 1 <= refused.value.retry_after <= 60


async def test_a_keys_own_limits_go_before_the_settings() -> None:
    limits = KeyLimits(Settings(key_requests_per_minute=100, key_concurrent_requests=100))
    assert await passes(limits, TWO)
    limits.leave(TWO)
    with pytest.raises(RateLimited, match="more than 1 requests"):
        await limits.enter(TWO)


async def test_requests_at_a_time_are_counted_until_they_leave() -> None:
    limits = KeyLimits(Settings(key_concurrent_requests=2))
    assert [await passes(limits, ONE) for _ in range(3)] == [True, True, False]
    limits.leave(ONE)
    assert [await passes(limits, ONE) for _ in range(2)] == [True, False]


async def test_the_time_of_day_locks_no_key_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back an hour, or on a day, changes nothing."""
    now = 0.0
    limits = KeyLimits(Settings(key_requests_per_minute=2), clock=lambda: now)
    for day in (1_700_000_000.0, 1_700_000_000.0 - 3600, 1_700_000_000.0 + 86_400):
        monkeypatch.setattr(time, "time", lambda day=day: day)
        assert [await passes(limits, ONE) for _ in range(3)] == [True, True, False]
        now += 59
        assert not await passes(limits, ONE)
        now += 1


async def test_redis_away_means_counting_here() -> None:
    limits = KeyLimits(Settings(key_requests_per_minute=2, rate_limit_url="redis://127.0.0.1:1/0"))
    assert [await passes(limits, ONE) for _ in range(4)] == [True, True, False, False]
