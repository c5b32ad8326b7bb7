"""Jobs that clients follow: one poller per process reads all of them, and gives each follower its job.

A hundred followers cost the registry one query per poll, and hold no threads that other calls need.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from headmap.errors import HeadmapError, JobNotFound, QueueFull
from headmap.registry.jobs import JobRecord, get_jobs
from headmap.registry.session import Database

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_LOOK_UP_SECONDS = 1.0
_RETRY_SECONDS = 10


@dataclass(eq=False)
class _Follower:
    job: JobRecord | None
    """As the poller last saw it; None once it is gone."""
    job_id: str
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Followers:
    """The followers of one process, on one event loop. The poller runs while there are followers."""

    def __init__(self, database: Database, *, most: int) -> None:
        """`most`: how many may follow at a time."""
        self._database, self._most = database, most
        self._all: set[_Follower] = set()
        self._poller: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Raises QueueFull if as many follow as may."""
        if len(self._all) >= self._most:
            raise QueueFull(f"{self._most} clients follow jobs", retry_after=_RETRY_SECONDS)

    async def follow(self, job: JobRecord) -> AsyncGenerator[JobRecord | None, None]:
        """The job as soon as it differs from `job`, and each time it differs again, to its end.

        About once a second without any change it gives None, so that the caller can look up. A registry that goes away
        is waited for. Raises JobNotFound once the job is gone.
        """
        follower = _Follower(job, job.id)
        self._all.add(follower)
        try:
            while not job.state.ended:
                if self._poller is None or self._poller.done():
                    self._poller = asyncio.create_task(self._poll())
                with suppress(TimeoutError):
                    await asyncio.wait_for(follower.changed.wait(), _LOOK_UP_SECONDS)
                follower.changed.clear()
                if follower.job is None:
                    raise JobNotFound(f"job: there is no job {job.id!r} any more", param="job_id")
                yield None if follower.job == job else follower.job
                job = follower.job
        finally:
            self._all.discard(follower)

    async def _poll(self) -> None:
        while self._all:
            # Followers who join during the query get nothing: their own data may be newer.
            asked = list(self._all)
            try:
                found = await run_in_threadpool(self._read, {follower.job_id for follower in asked})
            except HeadmapError:
                pass  # the registry is away, as readiness says
            except Exception:
                logger.exception("jobs that clients follow")
            else:
                for follower in asked:
                    latest = found.get(follower.job_id)
                    if latest != follower.job:
                        follower.job = latest
                        follower.changed.set()
            await asyncio.sleep(_POLL_SECONDS)

    def _read(self, job_ids: set[str]) -> dict[str, JobRecord]:
        with self._database.read() as session:
            return get_jobs(session, job_ids)
