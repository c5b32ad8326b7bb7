"""The processes of a deployment, each to be picked and hurt: PostgreSQL, Redis, the scoring API and workers."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import httpx
from sqlalchemy import func, select

from headmap.errors import RegistryUnavailable
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.registry.tables import Job, Shard, ShardState
from headmap.settings import Settings
from tests.integration.processes import Api, Process, wait_for
from tests.integration.servers import Postgres, Redis

StartWorker = Callable[[Settings], Process]


class Cluster:
    """A migrated registry, a broker, one API and `workers` workers; `end` ends them, the servers are the caller's."""

    def __init__(
        self, settings: Settings, postgres: Postgres, redis: Redis, *, workers: int, start_worker: StartWorker
    ) -> None:
        self.settings, self.postgres, self.redis = settings, postgres, redis
        migrate(settings)
        self.database = open_database(settings)
        self.api = Api(settings)
        self._start_worker = start_worker
        self._workers = [start_worker(settings) for _ in range(workers)]
        self._asleep: set[Process] = set()
        self._timers: list[threading.Timer] = []
        self._ended: list[Process] = []

    def pick(self, rng: random.Random) -> Process:
        """A worker that is not stopped."""
        awake = [worker for worker in self._workers if worker not in self._asleep]
        return rng.choice(awake)

    def replace(self, worker: Process) -> None:
        """Another in its place, as a restart policy starts one."""
        self._ended.append(worker)
        self._workers[self._workers.index(worker)] = self._start_worker(self.settings)

    def replace_api(self) -> None:
        """Another on its port."""
        self._ended.append(self.api)
        self.api = Api(self.settings, self.api.port)

    def put_to_sleep(self, worker: Process, seconds: float, *, stop: int, go_on: int) -> bool:
        """Stop a worker and let it come back by itself; False where that would leave no other."""
        if len(self._asleep) + 2 > len(self._workers):
            return False
        self._asleep.add(worker)
        worker.signal(stop)

        def wake() -> None:
            worker.signal(go_on)
            self._asleep.discard(worker)

        self._timers.append(threading.Timer(seconds, wake))
        self._timers[-1].start()
        return True

    def wait_until_answering(self) -> None:
        def answers() -> bool:
            try:
                return httpx.get(f"{self.api.url}/health/ready", timeout=5, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers, "the API is ready")

    def wait_until_awake(self) -> None:
        for timer in self._timers:
            timer.join()

    def at_work(self) -> tuple[int, int]:
        """Shards that are leased, and pages in shards that are done; nothing as far as an absent registry tells."""
        try:
            with self.database.read() as session:
                leased = select(func.count()).where(Shard.state == ShardState.RUNNING)
                return session.scalar(leased) or 0, session.scalar(select(func.sum(Job.pages_done))) or 0
        except RegistryUnavailable:
            return 0, 0

    def logged(self, message: str) -> int:
        """How often workers logged exactly this."""
        processes = [*self._ended, *self._workers]
        return sum(entry.get("message") == message for process in processes for entry in process.entries())

    def end(self) -> None:
        self.wait_until_awake()
        for process in (*self._ended, *self._workers, self.api):
            process.end()
        self.database.close()
