"""The sweeper recovers shards that broker or workers lose. Every worker runs one; any number may run at once."""

from __future__ import annotations

import logging
import threading

from headmap.errors import HeadmapError
from headmap.jobs.broker import Broker
from headmap.jobs.leases import abandon, claim_unannounced, due_leases, expire, leased_by
from headmap.jobs.submit import ANNOUNCE
from headmap.registry.jobs import forget_idempotency_keys
from headmap.registry.session import Database
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_BATCH = 100


def sweep(database: Database, broker: Broker, settings: Settings) -> int:
    """Take back shards whose lease ran out, enqueue due shards that are not in the queue; returns how many.

    Each step is a conditional change under a row lock, so several sweepers do the work of one. Raises
    RegistryUnavailable, and OSError when the broker does not answer.
    """
    take_back(database, settings)
    return announce_due(database, broker, settings)


def take_back(database: Database, settings: Settings) -> int:
    """End the attempts whose leases ran out; returns how many. Raises RegistryUnavailable."""
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
    """End the attempts of owners with this prefix, whose processes have ended, `but` those with another; returns how
    many. Raises RegistryUnavailable.
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
    """Enqueue shards that are due and not on their way; returns how many. Raises as `sweep`."""
    waiting = broker.waiting()
    with database.write() as session:
        forget_idempotency_keys(session)
        due = claim_unannounced(session, wait=settings.sweep_seconds, limit=ANNOUNCE, waiting=waiting)
    broker.enqueue(due)
    return len(due)


class SweeperThread:
    """Sweeps every `settings.sweep_seconds` until stopped; outlives an absent registry or broker."""

    def __init__(self, database: Database, broker: Broker, settings: Settings) -> None:
        self._database, self._broker, self._settings = database, broker, settings
        self.leases_taken_back = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.leases_taken_back += take_back(self._database, self._settings)
                announce_due(self._database, self._broker, self._settings)
            except (HeadmapError, OSError) as error:
                logger.warning("sweep: %s", error)
            except Exception:
                logger.exception("sweep")  # the next sweep may succeed; without a sweeper lost shards stay lost
            self._stop.wait(self._settings.sweep_seconds)
