"""The Celery application: one task, JSON only, acknowledged when done, no results kept.

The API process builds it to send tasks; a worker builds it to run them, with a runtime that opens the registry and the
model only after the fork. The broker is a folder on one machine (`filesystem_broker.py`) and Redis in a cluster; the
task is the same.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from celery import Celery, bootsteps, signals
from kombu.entity import Queue
from kombu.exceptions import ChannelError, OperationalError

from headmap.errors import DeviceFailed, HeadmapError, RegistryUnavailable
from headmap.jobs.broker import Broker
from headmap.jobs.filesystem_broker import transport_options
from headmap.jobs.leases import has_unannounced, release
from headmap.jobs.runner import Observe, run_shard, unobserved
from headmap.jobs.slots import Slot, take_slot
from headmap.jobs.sweeper import SweeperThread, announce_due
from headmap.jobs.work import ShardScorer
from headmap.redis_url import verified
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from headmap.tracing import NO_TRACER, Tracer

logger = logging.getLogger(__name__)

QUEUE = "headmap-scoring"
TASK = "headmap.score_shard"

ScorerFactory = Callable[[Settings], ShardScorer]
"""Makes the scorer of a worker process; called once in each, after the fork, so it may import torch."""


class WorkerRuntime:
    """The registry and the scorer of a worker process, opened on first use and again in each forked child."""

    def __init__(
        self,
        settings: Settings,
        scorer_factory: ScorerFactory,
        observe: Observe,
        broker: Broker,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self.settings = settings
        self._tracer = tracer
        self._broker = broker
        self.sweeper: SweeperThread | None = None
        self._observe = observe
        self._made_in = os.getpid()
        self._slot: Slot | None = None
        self.stopping = threading.Event()
        self._factory = scorer_factory
        self._lock = threading.Lock()
        self._opened: tuple[int, Database, ShardScorer | None] | None = None

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
        if self.stopping.is_set():
            return "stopping"  # a solo worker takes one more message; a sweeper sends it to another worker later
        owner = f"{self.take_slot().name}/{os.getpid()}"
        with self._hard_limit():
            try:
                outcome = run_shard(
                    self.database(),
                    self.settings,
                    self.scorer,
                    job_id,
                    number,
                    owner=owner,
                    observe=self._observe,
                    tracer=self._tracer,
                )
            except DeviceFailed as error:
                self._end_at_once(error.detail)
        if outcome == "done":
            self._announce_round(job_id)
        return outcome

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


class CeleryBroker:
    """The `Broker` of a Celery application. Raises OSError when the broker does not answer."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def enqueue(self, shards: Iterable[tuple[str, int]]) -> None:
        try:
            with self._app.connection_for_write() as connection:
                for job_id, number in shards:
                    self._app.send_task(TASK, args=(job_id, number), queue=QUEUE, connection=connection, retry=False)
        except self._errors() as error:
            raise OSError(f"the broker does not answer: {error}") from error

    def waiting(self) -> int:
        try:
            with self._app.connection_for_write() as connection:
                return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)
        except ChannelError:
            return 0  # Redis has no list if there is no message
        except self._errors() as error:
            raise OSError(f"the broker does not answer: {error}") from error

    def _errors(self) -> tuple[type[BaseException], ...]:
        connection = self._app.connection_for_write()
        return OperationalError, *connection.connection_errors, *connection.channel_errors


class WorkerSteps(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Sweeps while the worker runs, and hands its leases back when the worker is told to stop."""

    requires = ("celery.worker.components:Pool",)

    def create(self, parent: Any) -> None:
        """Celery calls this before the pool forks and before the worker takes any message."""
        self._runtime: WorkerRuntime = parent.app.headmap_runtime
        slot = self._runtime.take_slot()
        database = open_database(self._runtime.settings, connections=0)
        try:
            slot.end_former_leases(database, self._runtime.settings)
        finally:
            database.close()

    def start(self, parent: Any) -> None:
        runtime = self._runtime
        self._database = open_database(runtime.settings, connections=0)
        runtime.sweeper = SweeperThread(self._database, CeleryBroker(parent.app), runtime.settings)
        runtime.sweeper.start()
        signals.worker_shutting_down.connect(self._shutting_down)

    def stop(self, parent: Any) -> None:
        if self._runtime.sweeper is not None:
            self._runtime.sweeper.stop()
        self._database.close()

    def _shutting_down(self, **_: Any) -> None:
        self._runtime.stopping.set()
        # This signal handler may interrupt one of our transactions, so release the leases in another thread.
        threading.Thread(target=self._runtime.release, name="release", daemon=True).start()


def create_celery(
    settings: Settings,
    scorer_factory: ScorerFactory | None = None,
    observe: Observe = unobserved,
    tracer: Tracer = NO_TRACER,
) -> Celery:
    """Make the Celery application of one process. A worker needs `scorer_factory`, a sender does not.

    The process that attempts a shard calls `observe` after the attempt, which is a span of `tracer`.
    """
    embedded = settings.broker_url is None
    urls = settings.celery_broker_url.split(";")
    broker = "filesystem://localhost" if embedded else ";".join(map(verified, urls))
    app = Celery("headmap", broker=broker, set_as_current=False)
    hard = settings.shard_time_limit
    if embedded:
        options = transport_options(settings)
    else:
        options = {
            # above the hard limit: Redis must not redeliver the message of a running shard
            "visibility_timeout": hard + 600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 30,
        }
    app.conf.update(
        broker_transport="headmap.jobs.filesystem_broker:Transport" if embedded else None,
        broker_transport_options=options,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_default_queue=QUEUE,
        task_queues=[Queue(QUEUE)],
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the lease decides, not the broker
        task_publish_retry=False,
        task_time_limit=hard,
        # Celery interrupts and then kills a scorer that runs longer than `shard_seconds`.
        task_soft_time_limit=0.95 * hard,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=not embedded,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=10.0,
        worker_proc_alive_timeout=60.0,
        enable_utc=True,
    )
    if scorer_factory is not None:

        def flush(**_: object) -> None:
            tracer.flush()

        signals.worker_process_shutdown.connect(flush, weak=False)  # a child of the pool ends without Python's exit
        runtime = WorkerRuntime(settings, scorer_factory, observe, CeleryBroker(app), tracer)
        app.headmap_runtime = runtime
        app.task(runtime.score_shard, name=TASK, ignore_result=True)
        app.steps["worker"].add(WorkerSteps)
    return app


def worker_arguments(*, pool: str = "solo", concurrency: int = 1, log_level: str = "INFO") -> list[str]:
    """Return arguments for `Celery.worker_main`: `solo` on one machine, `prefork` in a cluster (for hard limits)."""
    return [
        "--quiet",
        "worker",
        f"--pool={pool}",
        f"--concurrency={concurrency}",
        f"--loglevel={log_level}",
        f"--queues={QUEUE}",
        "--without-gossip",
        "--without-mingle",
        "--hostname=scoring@%h",
    ]
