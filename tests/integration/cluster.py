"""A registry, a broker and workers for one test, with the questions tests ask of jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from headmap.errors import RegistryUnavailable
from headmap.jobs.broker import Broker
from headmap.jobs.celery_app import create_celery
from headmap.jobs.celery_broker import CeleryBroker
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import JobRecord
from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.registry.tables import JobState
from headmap.settings import Settings
from tests.integration.processes import Worker, wait_for
from tests.shared.jobs import steps
from tests.shared.jobs.fakes import INFO

PARAMS = JobParams(dataset="synthetic", pages=24, rule="aligned", seed=7, max_new_tokens=64)


class Cluster:
    """A registry, a broker and workers that are ended with the test."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        migrate(settings)
        self.database: Database = open_database(settings)
        self.broker: Broker = CeleryBroker(create_celery(settings))
        self._workers: list[Worker] = []

    def worker(self, *, pool: str = "solo", pause: float = 0.05, **options: Any) -> Worker:
        """`options` as `Worker` has them."""
        self._workers.append(Worker(self.settings, pool=pool, pause=pause, **options))
        return self._workers[-1]

    def submit(self, params: JobParams = PARAMS, *, model: str = INFO.name) -> str:
        info = replace(INFO, name=model)
        return steps.submit(self.database, self.broker, self.settings, info, params, force=True)[0].id

    def job(self, job_id: str) -> JobRecord:
        return steps.read_job(self.database, job_id)

    def wait_until_running(self, job_id: str, *, pages: int = 1) -> None:
        wait_for(lambda: self.job(job_id).done >= pages, f"{pages} pages done")

    def wait_until_ended(self, job_id: str) -> JobRecord:
        def ended() -> bool:
            try:
                return self.job(job_id).state.ended
            except RegistryUnavailable:
                return False

        wait_for(ended, "the job's end")
        return self.job(job_id)

    def assert_succeeded(self, job_id: str) -> None:
        """With one map, every page counted once, and the scores of a run that nothing disturbed."""
        job = self.wait_until_ended(job_id)
        assert (job.state, job.error, job.done) == (JobState.SUCCEEDED, None, PARAMS.pages)
        assert steps.maps_of(self.database, job_id) == 1
        assert steps.checksum(self.database, job_id) == calm_checksum(self.settings.data_dir / "calm")

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
        self.database.close()


def calm_checksum(folder: Path) -> str:
    """Of the same job done in order, in this process, in a registry that no worker looks into."""
    settings = Settings(data_dir=folder)
    migrate(settings)
    database = open_database(settings)
    job = steps.make_job(database, params=PARAMS)
    for number in range(PARAMS.pages // 4):
        steps.finish(database, steps.held(database, job, number))
    found = steps.checksum(database, job)
    database.close()
    return found
