"""Start a job: rows first, messages after the commit."""

from __future__ import annotations

import logging

from sqlalchemy.exc import IntegrityError

from headmap.errors import Unavailable
from headmap.jobs.broker import Broker
from headmap.models import ModelInfo
from headmap.registry.jobs import JobParams, JobRecord, add_job, get_job
from headmap.registry.session import Database
from headmap.settings import Settings

logger = logging.getLogger(__name__)

ANNOUNCE = 256
"""Messages a job starts with, and that the sweeper keeps in the broker; the rest of a long job follow as these go."""

_TRIES = 5


def submit(
    database: Database,
    broker: Broker,
    settings: Settings,
    info: ModelInfo,
    params: JobParams,
    *,
    force: bool = False,
    idempotency_key: str | None = None,
) -> tuple[JobRecord, bool]:
    """The job for a request, and whether it is new.

    Equal requests at one moment get one job. A broker that does not answer delays the job by a sweep and fails
    nothing. Raises IdempotencyConflict and RegistryUnavailable.
    """
    for _ in range(_TRIES):
        try:
            with database.write() as session:
                job_id, numbers, created = add_job(
                    session,
                    info,
                    params,
                    shard_pages=settings.shard_pages,
                    announce=ANNOUNCE,
                    force=force,
                    idempotency_key=idempotency_key,
                )
                record = get_job(session, job_id)
        except IntegrityError:
            continue  # an equal request was first; look again
        try:
            broker.enqueue((job_id, number) for number in numbers)
        except OSError as error:
            logger.warning("job %s waits for the sweeper: %s", job_id, error)
        return record, created
    raise Unavailable("too many equal requests at once")
