"""A worker process takes a message and scores its shard, or leaves the shard to a host that can."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from headmap.errors import DeviceFailed, HeadmapError, JobNotFound, ModelNotUsable, RegistryUnavailable
from headmap.jobs.announcing import another_due, has_unannounced
from headmap.jobs.broker import Broker
from headmap.jobs.leases import release
from headmap.jobs.runner import Observe, run_shard
from headmap.jobs.slots import Slot, take_slot
from headmap.jobs.subscriptions import FindModels, Subscriptions
from headmap.jobs.sweeper import SweeperThread, announce_due
from headmap.jobs.work import ShardScorer
from headmap.models import models_here
from headmap.registry.jobs import get_job
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from headmap.tracing import NO_TRACER, Tracer

logger = logging.getLogger(__name__)

ScorerFactory = Callable[[Settings], ShardScorer]
"""Makes the scorer of a worker process; called once in each, after the fork, so it may import torch."""

_DECLINE_SECONDS = 600.0
"""For how long a process takes no shards of a job after one that this host cannot do."""


class WorkerRuntime:
    """The registry and the scorer of a worker process, opened on first use and again in each forked child."""

    def __init__(
        self,
        settings: Settings,
        scorer_factory: ScorerFactory,
        observe: Observe,
        broker: Broker,
        find_models: FindModels = models_here,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.settings = settings
        self._tracer = tracer
        self._broker = broker
        self._find_models = find_models
        self._subscriptions: Subscriptions | None = None
        self.sweeper: SweeperThread | None = None
        self._observe = observe
        self._made_in = os.getpid()
        self._slot: Slot | None = None
        self.stopping = threading.Event()
        self._factory = scorer_factory
        self._lock = threading.Lock()
        self._opened: tuple[int, Database, ShardScorer | None] | None = None
        self._declined: dict[str, float] = {}
        """Jobs with shards that this host cannot do, and until when they are declined."""

    @property
    def subscriptions(self) -> Subscriptions:
        """Of this worker and all its children. Ask for it once before the worker forks."""
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self.settings, self._find_models)
        return self._subscriptions

    def take_slot(self) -> Slot:
        """Take the slot of this worker and all its children. Call it once, before the worker forks."""
        if self._slot is None:
            self._slot = take_slot(self.settings)
        return self._slot

    def database(self) -> Database:
        return self._open()[1]

    def scorer(self) -> ShardScorer:
        pid, database, scorer = self._open()
        if scorer is None:
            scorer = self._factory(self.settings)
            self._opened = (pid, database, scorer)
        return scorer

    def score_shard(self, job_id: str, number: int) -> str:
        """Do the shard of a message, and return the outcome as `run_shard` has it, or why nothing was done."""
        if self.stopping.is_set():
            return "stopping"  # a solo worker takes one more message; a sweeper sends it to another worker later
        possible = self._possible(job_id, number)
        if possible is None:
            return "declined"
        owner = f"{self.take_slot().name}/{os.getpid()}"
        with self._hard_limit():
            try:
                outcome = run_shard(
                    self.database(),
                    self.settings,
                    self.scorer,
                    *possible,
                    owner=owner,
                    device=self.subscriptions.device,
                    observe=self._observe,
                    tracer=self._tracer,
                )
            except DeviceFailed as error:
                self._end_at_once(error.detail)
            except HeadmapError as error:
                if not error.not_here:
                    raise
                self._decline(possible[0], whole_model=isinstance(error, ModelNotUsable))
                return "handed_back"
        if outcome == "done":
            self._announce_round(possible[0])
        return outcome

    def _possible(self, job_id: str, number: int) -> tuple[str, int] | None:
        """The shard of a message or, where this host cannot do its job, another shard of its model."""
        now = time.monotonic()
        self._declined = {job: until for job, until in self._declined.items() if until > now}
        if job_id not in self._declined:
            return job_id, number
        with self.database().read() as session:
            other = another_due(session, job_id, device=self.subscriptions.device, excluded=list(self._declined))
        if other is None:
            self._decline(job_id, whole_model=True)
        return other

    def _decline(self, job_id: str, *, whole_model: bool) -> None:
        """Take no shards of a job for a while, or none of its model, so that other hosts get their messages."""
        if not whole_model:
            self._declined[job_id] = time.monotonic() + _DECLINE_SECONDS
            return
        try:
            with self.database().read() as session:
                job = get_job(session, job_id)
        except JobNotFound:
            return
        self.subscriptions.pause(job.model, job.revision)

    def _announce_round(self, job_id: str) -> None:
        """Enqueue the job's next round after the last shard of a round, so that it does not wait for a sweeper."""
        try:
            with self.database().read() as session:
                begun = has_unannounced(session, job_id)
            if begun:
                announce_due(self.database(), self._broker, self.settings)
        except (HeadmapError, OSError) as error:
            logger.warning("a round of pages waits for the sweeper: %s", error)

    def release(self) -> None:
        """Hand back the leases of this worker and its children. They notice within a second and stop."""
        database = open_database(self.settings, connections=0)
        try:
            with database.write() as session:
                count = release(session, f"{self.take_slot().name}/")
            logger.info("worker stops: %d shards handed back", count)
        except RegistryUnavailable as error:
            logger.warning("worker stops; its leases will run out: %s", error)
        finally:
            database.close()

    @contextmanager
    def _hard_limit(self) -> Iterator[None]:
        """Enforce the hard limit in the solo pool, which has no parent: end the process, so that another one starts."""
        if os.getpid() != self._made_in:
            yield
            return
        limit = self.settings.shard_time_limit
        timer = threading.Timer(limit, self._end_at_once, (f"a shard took longer than {limit} s",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end_at_once(self, reason: str) -> NoReturn:
        """End this process at once. The pool, supervisor or container runtime that started it starts another one."""
        logger.critical("%s: this worker process ends", reason)
        os._exit(1)

    def _open(self) -> tuple[int, Database, ShardScorer | None]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                # all that this process holds between shards
                self._opened = (os.getpid(), open_database(self.settings, connections=1), None)
            return self._opened
