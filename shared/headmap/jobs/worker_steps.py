"""What runs beside the shards of a worker, in its main process: the sweeper, and the choice of queues."""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import bootsteps, signals

from headmap.errors import HeadmapError
from headmap.jobs.celery_broker import CeleryBroker, celery_queue
from headmap.jobs.sweeper import SweeperThread
from headmap.jobs.worker_runtime import WorkerRuntime
from headmap.registry.session import Database, open_database
from headmap.registry.workers import report_models

logger = logging.getLogger(__name__)


class WorkerSteps(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Sweeps and follows the queues while the worker runs, and hands its leases back when the worker shall stop."""

    requires = ("celery.worker.components:Pool",)

    def create(self, parent: Any) -> None:
        """Celery calls this before the pool forks and before the worker takes any message."""
        self._runtime: WorkerRuntime = parent.app.headmap_runtime
        slot = self._runtime.take_slot()
        database = open_database(self._runtime.settings)
        try:
            slot.end_former_leases(database, self._runtime.settings)
        finally:
            database.close()
        for name in self._runtime.subscriptions.queues():
            parent.app.amqp.queues.select_add(celery_queue(name))

    def start(self, parent: Any) -> None:
        runtime = self._runtime
        self._database = open_database(runtime.settings)
        runtime.sweeper = SweeperThread(self._database, CeleryBroker(parent.app), runtime.settings)
        runtime.sweeper.start()
        self._follower = QueueFollower(runtime, self._database, parent)
        self._follower.start()
        signals.worker_shutting_down.connect(self._shutting_down)

    def stop(self, parent: Any) -> None:
        if self._runtime.sweeper is not None:
            self._runtime.sweeper.stop()
        self._follower.stop()
        self._database.close()

    def _shutting_down(self, **_: Any) -> None:
        self._runtime.stopping.set()
        # This signal handler may interrupt one of our transactions, so release the leases in another thread.
        threading.Thread(target=self._runtime.release, name="release", daemon=True).start()


class QueueFollower:
    """Keeps the consumer on the queues of its subscriptions, and tells the registry of the models, until stopped."""

    def __init__(self, runtime: WorkerRuntime, database: Database, worker: Any) -> None:
        self._runtime, self._database, self._worker = runtime, database, worker
        self._subscriptions = runtime.subscriptions
        self._taken = set(worker.app.amqp.queues.consume_from)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queues", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._subscriptions.wake()
        self._thread.join(timeout=5)
        self._report(set())

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception:
                logger.exception("queues")  # without this thread the worker would keep queues that it cannot serve
            self._subscriptions.wait(self._runtime.settings.sweep_seconds)

    def _follow(self) -> None:
        wanted = self._subscriptions.queues()
        added, dropped = wanted - self._taken, self._taken - wanted
        if added or dropped:
            # The consumer belongs to another thread, which runs this between two messages.
            self._worker.consumer.call_soon(_switch, self._worker.consumer, added, dropped)
            self._taken = wanted
        self._report(self._subscriptions.models())

    def _report(self, models: set[tuple[str, str]]) -> None:
        name = self._runtime.take_slot().name
        try:
            with self._database.write() as session:
                report_models(session, name, self._subscriptions.device, models)
        except HeadmapError as error:
            logger.warning("the registry does not know which models this worker takes: %s", error)


def _switch(consumer: Any, added: set[str], dropped: set[str]) -> None:
    """Change the queues of a consumer. Celery makes a new one with these queues when it has to connect again."""
    queues = consumer.app.amqp.queues
    connected = consumer.task_consumer is not None
    for name in added:
        queues.select_add(celery_queue(name))
        if connected:
            consumer.add_task_queue(name)
    for name in dropped:
        if connected:
            consumer.cancel_task_queue(name)
        else:
            queues.deselect(name)
