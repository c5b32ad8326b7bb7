"""Start a job: write its rows first, and send its messages after the commit."""

from __future__ import annotations

import logging

from sqlalchemy.exc import IntegrityError

from headmap.context import request_id
from headmap.errors import Unavailable
from headmap.jobs.broker import Broker
from headmap.jobs.queues import JobQueue
from headmap.models import ModelInfo
from headmap.registry.job_limits import OpenLimits
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import JobRecord, add_job, get_job
from headmap.registry.session import Database
from headmap.settings import Settings
from headmap.tracing import current_span

logger = logging.getLogger(__name__)

ANNOUNCE = 256
"""Messages a job starts with, and that the sweeper keeps in the broker; the rest of a long job follow as these go."""

_TRIES = 5


def write_job(
    database: Database,
    settings: Settings,
    info: ModelInfo,
    params: JobParams,
    *,
    force: bool = False,
    idempotency_key: str | None = None,
    key_name: str | None = None,
    limits: OpenLimits | None = None,
) -> tuple[JobRecord, list[tuple[str, int]], bool]:
    """Commit the job for a request. Returns the job, the shards to announce now, and whether the job is new.

    Simultaneous equal requests get one job. Raises IdempotencyConflict, RegistryUnavailable, and TooManyJobs for a new
    job beyond `limits`.
    """
    for _ in range(_TRIES):
        try:
            with database.write() as session:
                job_id, numbers, created = add_job(
                    session,
                    info,
                    params,
                    shard_pages=settings.shard_pages if params.evaluation is None else settings.shard_questions,
                    announce=ANNOUNCE,
                    force=force,
                    idempotency_key=idempotency_key,
                    request_id=request_id.get(),
                    traceparent=current_span.get().traceparent,
                    key_name=key_name,
                    limits=limits,
                )
                found = get_job(session, job_id), [(job_id, number) for number in numbers], created
        except IntegrityError:
            continue  # an equal request came first; look again
        current_span.get().set({"headmap.job.id": job_id})
        logger.info("job submitted" if created else "job found", extra={"job_id": job_id})
        return found
    raise Unavailable("too many identical requests at once; try again")


def announce(broker: Broker, job: JobRecord, shards: list[tuple[str, int]]) -> None:
    """Send committed shards of a job to the broker. If the broker does not answer, the sweeper sends them later."""
    try:
        broker.enqueue(JobQueue(job.model, job.revision, job.device), shards)
    except OSError as error:
        logger.warning("%d shards wait for the sweeper: %s", len(shards), error)
