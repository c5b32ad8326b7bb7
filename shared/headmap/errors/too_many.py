"""The caller has to wait, since it or all callers together ask for too much: 429."""

from __future__ import annotations

from headmap.errors.base import HeadmapError


class TooManyRequests(HeadmapError):
    """Try again after `retry_after` seconds."""

    code, status, title = "too_many_requests", 429, "Too many requests"

    def __init__(self, detail: str, *, retry_after: int = 1, param: str | None = None) -> None:
        super().__init__(detail, param=param)
        self.retry_after = retry_after


class QueueFull(TooManyRequests):
    """The server takes no more requests at present."""

    code = "queue_full"


class RateLimited(TooManyRequests):
    """An API key exceeds its limits."""

    code = "rate_limited"


class TooManyJobs(TooManyRequests):
    """Jobs that have not ended are as many, or have as many pages, as there may be."""

    code = "too_many_jobs"

    def __init__(self, detail: str, *, retry_after: int = 60) -> None:
        super().__init__(detail, retry_after=retry_after)


class BodiesTooLarge(TooManyRequests):
    """The bodies and pictures of requests at work take as much as they may."""
