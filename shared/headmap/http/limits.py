"""The limits of each API key: requests per minute in a moving window, and concurrent requests."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from headmap.errors import RateLimited
from headmap.keys import ApiKey
from headmap.redis_url import verified
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_WINDOW_SECONDS = 60
_REDIS_SECONDS = 0.5
_REDIS_AWAY_SECONDS = 10.0


class KeyLimits:
    """Counts requests in Redis for all processes together, or in memory if Redis is not set or not available."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._passed: dict[str, deque[float]] = {}  # by key: the times of its requests in the last minute
        self._shared = None if settings.rate_limit_url is None else _in_redis(settings.rate_limit_url)
        self._shared_from = float("-inf")
        self._at_work: Counter[str] = Counter()

    async def enter(self, key: ApiKey) -> None:
        """Admit a request; call `leave` when it has ended. If this raises RateLimited, do not call `leave`."""
        await self._count(key)
        limit = key.concurrent_requests or self._settings.key_concurrent_requests
        if limit is not None and self._at_work[key.id] >= limit:
            raise RateLimited(f"API key {key.name!r}: at most {limit} requests at a time, and {limit} are running")
        self._at_work[key.id] += 1

    def leave(self, key: ApiKey) -> None:
        self._at_work[key.id] -= 1
        if not self._at_work[key.id]:
            del self._at_work[key.id]

    async def _count(self, key: ApiKey) -> None:
        limit = key.requests_per_minute or self._settings.key_requests_per_minute
        if limit is None:
            return
        if self._shared is not None and self._clock() >= self._shared_from:
            try:
                await _hit(self._shared, RateLimitItemPerMinute(limit), key)
                return
            except RateLimited:
                raise
            except Exception as error:  # any error of the client: a missing Redis must not lock callers out
                logger.warning("rate limits: Redis does not answer (%s); counting here", type(error).__name__)
                self._shared_from = self._clock() + _REDIS_AWAY_SECONDS
        self._count_here(limit, key)

    def _count_here(self, limit: int, key: ApiKey) -> None:
        now = self._clock()
        passed = self._passed.setdefault(key.id, deque())
        while passed and passed[0] <= now - _WINDOW_SECONDS:
            passed.popleft()
        if len(passed) >= limit:
            raise _rate_limited(key, limit, passed[-limit] + _WINDOW_SECONDS - now)
        passed.append(now)


def _in_redis(url: str) -> MovingWindowRateLimiter:
    storage = RedisStorage(
        f"async+{verified(url)}",
        implementation="redispy",
        key_prefix="headmap",
        socket_timeout=_REDIS_SECONDS,
        socket_connect_timeout=_REDIS_SECONDS,
    )
    return MovingWindowRateLimiter(storage)


async def _hit(limiter: MovingWindowRateLimiter, item: RateLimitItemPerMinute, key: ApiKey) -> None:
    if await limiter.hit(item, key.id):
        return
    window = await limiter.get_window_stats(item, key.id)
    raise _rate_limited(key, item.amount, window.reset_time - time.time())


def _rate_limited(key: ApiKey, limit: int, seconds: float) -> RateLimited:
    # Redis uses the wall clock, and somebody may have set it back meanwhile.
    retry_after = min(_WINDOW_SECONDS, max(1, math.ceil(seconds)))
    return RateLimited(f"API key {key.name!r}: more than {limit} requests in a minute", retry_after=retry_after)
