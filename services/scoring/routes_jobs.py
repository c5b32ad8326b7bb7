"""Jobs over HTTP: start, watch, list, cancel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from headmap.datasets.sources import find_dataset
from headmap.errors import ShuttingDown
from headmap.http.bodies import SmallRoute
from headmap.jobs.submit import announce, write_job
from headmap.models import find_model
from headmap.registry.jobs import JobRecord, cancel_job, get_job, job_params, list_jobs
from headmap.registry.tables import JobState
from services.scoring.deps import (
    Cursor,
    IdempotencyKey,
    JobId,
    KeyName,
    Limit,
    ModelFilter,
    ScoringState,
    State,
    check_promotion,
)
from services.scoring.schemas import JobBody, JobList, ScoreRequest

router = APIRouter(route_class=SmallRoute, tags=["jobs"])

_NO_JOB: dict[int | str, dict[str, Any]] = {404: {"description": "No such job"}}
_LOCATION = {"Location": {"description": "/score/{id}", "schema": {"type": "string"}}}


@router.post(
    "/score",
    status_code=202,
    summary="Profile a model",
    responses={
        200: {"model": JobBody, "description": "The job that stands for an equal request", "headers": _LOCATION},
        202: {"description": "A new job", "headers": _LOCATION},
        404: {"description": "No such model or dataset"},
        409: {"description": "The Idempotency-Key was used with another request"},
        429: {"description": "The key's jobs, or everybody's, that have not ended are as many as may be"},
    },
)
def start(
    body: ScoreRequest,
    request: Request,
    state: State,
    response: Response,
    background: BackgroundTasks,
    key_name: KeyName,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    check_promotion(request, body.promote)
    info = find_model(body.model, state.settings, body.revision)
    dataset = find_dataset(body.dataset, state.database)
    pages, max_pages = dataset.fit(body.pages if "pages" in body.model_fields_set else None, body.max_pages)
    params = job_params(
        pages=pages,
        min_pages=body.min_pages,
        max_pages=max_pages,
        stable_overlap=body.stable_overlap,
        dataset=body.dataset,
        rule=body.rule,
        seed=body.seed,
        max_new_tokens=body.max_new_tokens,
        dataset_checksum=dataset.checksum,
        promote=body.promote,
    )
    job, shards, created = write_job(
        state.database,
        state.settings,
        info,
        params,
        force=body.force,
        idempotency_key=idempotency_key,
        key_name=key_name,
        limits=state.open_limits,
    )
    # After the commit, and after the answer: a broker that is away keeps no client waiting.
    background.add_task(announce, state.broker, job, shards)
    response.status_code = 202 if created else 200
    response.headers["Location"] = f"/score/{job.id}"
    return JobBody.of(job)


@router.get("/score", summary="Jobs, newest first")
def listing(
    state: State,
    model: ModelFilter = None,
    job_state: Annotated[JobState | None, Query(alias="state")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobList:
    with state.database.read() as session:
        page = list_jobs(session, model=model, state=job_state, limit=limit, cursor=cursor)
    return JobList(items=[JobBody.of(job) for job in page.items], next_cursor=page.next_cursor)


@router.get("/score/{job_id}", summary="A job", responses=_NO_JOB)
def show(job_id: JobId, state: State) -> JobBody:
    return JobBody.of(_job(state, job_id))


@router.get(
    "/score/{job_id}/events",
    summary="Follow a job: an event for each change, until it ends",
    response_class=EventSourceResponse,
    responses={
        **_NO_JOB,
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Server-sent events"},
        204: {"description": "The client has seen the end (Last-Event-ID): do not connect again"},
        429: {"description": "As many clients follow jobs as may"},
    },
)
async def events(
    job_id: JobId, state: State, last_event_id: Annotated[str | None, Header(max_length=64)] = None
) -> Response:
    job = await run_in_threadpool(_job, state, job_id)
    if job.state.ended and last_event_id == job.state.value:
        return Response(status_code=204)
    state.followers.check_room()
    ending = anyio.Event()
    return EventSourceResponse(
        _changes(state, job, ending), ping=15, shutdown_event=ending, shutdown_grace_period=state.settings.drain_seconds
    )


@router.delete(
    "/score/{job_id}",
    status_code=202,
    summary="Cancel a job",
    responses={
        **_NO_JOB,
        202: {"description": "Cancelled; workers on it stop within seconds"},
        409: {"description": "It has ended"},
    },
)
def cancel(job_id: JobId, state: State) -> JobBody:
    with state.database.write() as session:
        cancel_job(session, job_id)
        return JobBody.of(get_job(session, job_id))


def _job(state: ScoringState, job_id: str) -> JobRecord:
    with state.database.read() as session:
        return get_job(session, job_id)


async def _changes(state: ScoringState, job: JobRecord, ending: anyio.Event) -> AsyncIterator[ServerSentEvent]:
    """The job now, and again after each change, with its state as the event's id. Ends with the job's last state.

    If the registry goes away, the stream waits for it and goes on. A server that is `ending` says so in an
    `error` event and ends the stream. Jobs go on, and another server continues the stream from Last-Event-ID.
    """
    yield _event(job)
    async with aclosing(state.followers.follow(job)) as changes:
        async for changed in changes:
            if changed is not None:
                yield _event(changed)
            if ending.is_set() and not (changed is not None and changed.state.ended):
                problem = ShuttingDown("the server is shutting down; the job goes on: connect again").problem()
                yield ServerSentEvent(json.dumps(problem), event="error")
                return


def _event(job: JobRecord) -> ServerSentEvent:
    return ServerSentEvent(JobBody.of(job).model_dump_json(), id=job.state.value)
