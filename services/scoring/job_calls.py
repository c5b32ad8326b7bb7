"""What the routes of every kind of job have in common: start, read, follow and cancel a job."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import anyio
from fastapi import BackgroundTasks, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from headmap.errors import ShuttingDown
from headmap.jobs.submit import announce, write_job
from headmap.models import ModelInfo
from headmap.registry.job_params import JobParams
from headmap.registry.jobs import JobRecord, cancel_job, get_job
from services.scoring.deps import ScoringState

Describe = Callable[[JobRecord], BaseModel]
"""Makes the body that describes a job."""

NO_JOB: dict[int | str, dict[str, Any]] = {404: {"description": "No such job"}}
STARTED: dict[int | str, dict[str, Any]] = {
    409: {"description": "The Idempotency-Key was used with another request"},
    429: {"description": "The key's jobs, or everybody's, that have not ended are as many as may be"},
}
FOLLOWED: dict[int | str, dict[str, Any]] = {
    **NO_JOB,
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events"},
    204: {"description": "The client has seen the end (Last-Event-ID): do not connect again"},
    429: {"description": "As many clients follow jobs as may"},
}
CANCELLED: dict[int | str, dict[str, Any]] = {
    **NO_JOB,
    202: {"description": "Cancelled; workers on it stop within seconds"},
    409: {"description": "It has ended"},
}


def start_job(
    state: ScoringState,
    info: ModelInfo,
    params: JobParams,
    response: Response,
    background: BackgroundTasks,
    place: str,
    *,
    force: bool,
    idempotency_key: str | None,
    key_name: str | None,
) -> JobRecord:
    """Write and announce a job, or find that of an equal request. `place`: the path of jobs of its kind."""
    job, shards, created = write_job(
        state.database,
        state.settings,
        info,
        params,
        force=force,
        idempotency_key=idempotency_key,
        key_name=key_name,
        limits=state.open_limits,
    )
    # After the commit, and after the answer: a broker that is away keeps no client waiting.
    background.add_task(announce, state.broker, job, shards)
    response.status_code = 202 if created else 200
    response.headers["Location"] = f"{place}/{job.id}"
    return job


def read_job(state: ScoringState, job_id: str, kind: str) -> JobRecord:
    with state.database.read() as session:
        return get_job(session, job_id, kind)


def end_by_request(state: ScoringState, job_id: str, kind: str) -> JobRecord:
    with state.database.write() as session:
        cancel_job(session, job_id, kind)
        return get_job(session, job_id, kind)


async def follow_job(
    state: ScoringState, job_id: str, kind: str, describe: Describe, last_event_id: str | None
) -> Response:
    """Server-sent events: the job now and after each change, with its state as the event's id, to its end."""
    job = await run_in_threadpool(read_job, state, job_id, kind)
    if job.state.ended and last_event_id == job.state.value:
        return Response(status_code=204)
    state.followers.check_room()
    ending = anyio.Event()
    return EventSourceResponse(
        _changes(state, job, describe, ending),
        ping=15,
        shutdown_event=ending,
        shutdown_grace_period=state.settings.drain_seconds,
    )


async def _changes(
    state: ScoringState, job: JobRecord, describe: Describe, ending: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    """If the registry goes away, the stream waits for it and goes on.

    A server that is `ending` says so in an `error` event and ends the stream. Jobs go on, and another server continues
    the stream from Last-Event-ID.
    """
    yield _event(job, describe)
    async with aclosing(state.followers.follow(job)) as changes:
        async for changed in changes:
            if changed is not None:
                yield _event(changed, describe)
            if ending.is_set() and not (changed is not None and changed.state.ended):
                problem = ShuttingDown("the server is shutting down; the job goes on: connect again").problem()
                yield ServerSentEvent(json.dumps(problem), event="error")
                return


def _event(job: JobRecord, describe: Describe) -> ServerSentEvent:
    return ServerSentEvent(describe(job).model_dump_json(), id=job.state.value)
