"""Run a job in this process without a broker. Rows, leases and sums are as in a cluster, so the map is the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sqlalchemy import select

from headmap.errors import DeviceNotFound
from headmap.jobs.leases import release
from headmap.jobs.queues import device_kind
from headmap.jobs.runner import run_shard
from headmap.jobs.slots import take_slot
from headmap.jobs.submit import write_job
from headmap.jobs.work import OnPage, ShardResult, ShardScorer, ShardSpec
from headmap.models import ModelInfo
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import JobRecord, get_job
from headmap.registry.session import Database
from headmap.registry.tables import Shard, ShardState
from headmap.settings import Settings

_PAUSE_SECONDS = 0.2


def profile_here(
    database: Database,
    settings: Settings,
    info: ModelInfo,
    params: JobParams,
    scorer: ShardScorer,
    *,
    force: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> JobRecord:
    """Run a job to its end and return it. Raises as `write_job` and `run_shard` do, and DeviceNotFound for a job that
    began on another kind of device.

    If an equal job has succeeded, this returns it unchanged, unless `force` is set. An interrupted or killed job goes
    on where it stopped. Workers on the same registry may take some of its shards.
    `on_progress` gets the pages done and the pages planned, about once a second or after each page.
    """
    job_id, device = write_job(database, settings, info, params, force=force)[0].id, device_kind(settings)
    slot = take_slot(settings)
    slot.end_former_leases(database, settings)
    owner = f"{slot.name}/{os.getpid()}"
    try:
        while True:
            with database.read() as session:
                job = get_job(session, job_id)
                open_shards = (Shard.job_id == job_id, Shard.state.in_((ShardState.QUEUED, ShardState.RUNNING)))
                numbers = session.scalars(select(Shard.number).where(*open_shards).order_by(Shard.number)).all()
            on_progress(job.done, job.total)
            if job.state.ended:
                return job
            if job.device not in (None, device):
                raise DeviceNotFound(
                    f"device: the job began on {job.device}, and here is {device}; go on there, or force another job"
                )
            watched = _Watched(scorer, job, on_progress).made
            outcomes = [
                run_shard(database, settings, watched, job_id, number, owner=owner, device=device) for number in numbers
            ]
            if "done" not in outcomes:
                time.sleep(_PAUSE_SECONDS)  # back-off, or shards leased by others
    finally:
        try:
            database.patiently(lambda session: release(session, owner), seconds=5)
        finally:
            slot.leave()


class _Watched:
    """A scorer that reports progress of the whole job: pages done when it was made, and pages done since."""

    def __init__(self, scorer: ShardScorer, job: JobRecord, on_progress: Callable[[int, int], None]) -> None:
        self._scorer, self._done, self._total, self._on_progress = scorer, job.done, job.total, on_progress

    def made(self) -> ShardScorer:
        return self

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        def tell(done: int) -> None:
            on_page(done)
            self._on_progress(self._done + done, self._total)

        result = self._scorer(spec, tell)
        self._done += spec.count
        return result
