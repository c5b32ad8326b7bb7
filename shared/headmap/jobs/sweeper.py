"""The sweeper recovers shards that broker or workers lose. Every worker has one, and they take turns."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta

from sqlalchemy import update

from headmap.errors import HeadmapError
from headmap.jobs.announcing import CLOCK_SLACK, claim_unannounced, open_queues
from headmap.jobs.broker import Broker
from headmap.jobs.leases import abandon, due_leases, expire, leased_by, shorten_waits
from headmap.jobs.retention import forget_old_jobs
from headmap.jobs.submit import ANNOUNCE
from headmap.registry.jobs import forget_idempotency_keys
from headmap.registry.session import Database, changed, utc_now
from headmap.registry.tables import Sweep
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_BATCH = 100


def sweep(database: Database, broker: Broker, settings: Settings) -> int:
    """Take back shards whose lease expired, and enqueue due shards missing in the queue. Returns how many.

    Each step is a conditional change under a row lock, so several sweepers do the work of one. Raises
    RegistryUnavailable, and OSError when the broker does not answer.
    """
    take_back(database, settings)
    return announce_due(database, broker, settings)


def take_back(database: Database, settings: Settings) -> int:
    """End the attempts whose leases expired. Returns how many. Raises RegistryUnavailable."""
    with database.read() as session:
        late = due_leases(session, _BATCH)
    taken = 0
    for job_id, number in late:
        with database.write() as session:
            ran_out = expire(
                session, job_id, number, max_attempts=settings.max_attempts, back_off=settings.retry_seconds
            )
        if ran_out:
            taken += 1
            logger.warning("shard lost its worker", extra={"job_id": job_id, "shard": number})
    return taken


def take_back_from(database: Database, settings: Settings, owner_prefix: str, *, but: str) -> int:
    """End the attempts of owners with `owner_prefix`, whose processes have ended, except owners with prefix `but`.

    Returns how many. Raises RegistryUnavailable.
    """
    with database.read() as session:
        held = [one for one in leased_by(session, owner_prefix) if not one[2].startswith(but)]
    ended = 0
    for job_id, number, owner in held:
        with database.write() as session:
            ended += abandon(
                session, job_id, number, owner, max_attempts=settings.max_attempts, back_off=settings.retry_seconds
            )
    return ended


def announce_due(database: Database, broker: Broker, settings: Settings) -> int:
    """Enqueue due shards that are not in the queue. Returns how many. Raises as `sweep` does."""
    with database.read() as session:
        queues = open_queues(session)
    lengths = broker.waiting({one for queue in queues for one in (queue, queue.any_device)})
    # Shards of a job that has begun may still wait in the queue of any device.
    waiting = {queue: sum(lengths[one] for one in {queue, queue.any_device}) for queue in queues}
    with database.write() as session:
        forget_idempotency_keys(session)
        shortened = shorten_waits(session, lease_seconds=settings.lease_seconds)
        due = claim_unannounced(session, wait=settings.sweep_seconds, limit=ANNOUNCE, waiting=waiting)
    if shortened:
        logger.warning("the clock went back: %d shards would have waited for as long as it jumped", shortened)
    for queue, shards in due.items():
        broker.enqueue(queue, shards)
    return sum(map(len, due.values()))


def take_turn(database: Database, seconds: float) -> bool:
    """Whether the caller shall sweep: nobody else has within `seconds`. Raises RegistryUnavailable.

    The update of one row decides, on either database and through a connection pooler, which advisory locks do not pass.
    """
    with database.write() as session:
        now = utc_now(session)
        set_back = Sweep.next_at > now + timedelta(seconds=seconds + CLOCK_SLACK)
        turn = update(Sweep).where(Sweep.id == 1, (Sweep.next_at <= now) | set_back)
        return bool(changed(session, turn.values(next_at=now + timedelta(seconds=seconds))))


class SweeperThread:
    """Tries to sweep every `settings.sweep_seconds` until stopped, even while the registry or broker is unavailable.

    Of all workers' threads together, one sweeps in that time.
    """

    def __init__(self, database: Database, broker: Broker, settings: Settings) -> None:
        self._database, self._broker, self._settings = database, broker, settings
        self.leases_taken_back = 0
        self._clock: tuple[float, datetime] | None = None
        """A look at the monotonic clock and at the registry's, at the same time."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def sweep(self) -> None:
        """Sweep like `sweep` if it is this worker's turn, but spare leases that only seem to have expired."""
        leapt = self._clock_leapt()
        if not take_turn(self._database, self._settings.sweep_seconds):
            return
        if not leapt:
            self.leases_taken_back += take_back(self._database, self._settings)
        announce_due(self._database, self._broker, self._settings)
        forget_old_jobs(self._database, self._settings)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.sweep()
            except (HeadmapError, OSError) as error:
                logger.warning("sweep: %s", error)
            except Exception:
                logger.exception("sweep")  # the next sweep may succeed; without a sweeper lost shards stay lost
            self._stop.wait(self._settings.sweep_seconds)

    def _clock_leapt(self) -> bool:
        """Whether the registry's clock jumped ahead since the last sweep, so that leases only seem to have expired.

        Live workers renew their leases before the next sweep.
        """
        with self._database.read() as session:
            now, registry = time.monotonic(), utc_now(session)
        before, self._clock = self._clock, (now, registry)
        if before is None:
            return False
        leap = (registry - before[1]).total_seconds() - (now - before[0])
        if leap > self._settings.lease_seconds / 4:
            logger.warning("the registry's clock went ahead by %.0f s; leases are looked at again in a while", leap)
            return True
        return False
