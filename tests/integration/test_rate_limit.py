"""A key's requests are counted over all processes, in a real Redis; and on without it."""

from __future__ import annotations

import pytest

from headmap.errors import RateLimited
from headmap.http.limits import KeyLimits
from headmap.keys import ApiKey
from headmap.settings import Settings
from tests.integration.servers import Redis

pytestmark = pytest.mark.integration


async def test_two_processes_count_together(redis: Redis) -> None:
    settings = Settings(key_requests_per_minute=3, rate_limit_url=redis.url)
    here, there = KeyLimits(settings), KeyLimits(settings)
    key = ApiKey("k", "ci", b"")
    await here.enter(key)
    await there.enter(key)
    await here.enter(key)
    for limits in (here, there):
        with pytest.raises(RateLimited) as refused:
            await limits.enter(key)
        assert 1 <= refused.value.retry_after <= 60
