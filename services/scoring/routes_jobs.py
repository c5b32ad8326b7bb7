"""Profiles over HTTP: start, watch, list and cancel the jobs that make maps."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from sse_starlette import EventSourceResponse

from headmap.datasets.sources import find_dataset
from headmap.http.bodies import SmallRoute
from headmap.models import find_model
from headmap.registry.job_params import PROFILE, job_params
from headmap.registry.jobs import list_jobs
from headmap.registry.tables import JobState
from services.scoring.deps import (
    Cursor,
    IdempotencyKey,
    JobId,
    KeyName,
    Limit,
    ModelFilter,
    ReadSession,
    State,
    check_promotion,
)
from services.scoring.job_calls import (
    CANCELLED,
    FOLLOWED,
    NO_JOB,
    STARTED,
    end_by_request,
    follow_job,
    read_job,
    start_job,
)
from services.scoring.schemas import JobBody, JobList, ScoreRequest

router = APIRouter(route_class=SmallRoute, tags=["jobs"])

_LOCATION = {"Location": {"description": "/score/{id}", "schema": {"type": "string"}}}


@router.post(
    "/score",
    status_code=202,
    summary="Profile a model",
    responses={
        **STARTED,
        200: {"model": JobBody, "description": "The job that stands for an equal request", "headers": _LOCATION},
        202: {"description": "A new job", "headers": _LOCATION},
        404: {"description": "No such model or dataset"},
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
        map_kind=body.kind,
        dataset=body.dataset,
        rule=body.rule,
        seed=body.seed,
        max_new_tokens=body.max_new_tokens,
        dataset_checksum=dataset.checksum,
        promote=body.promote,
    )
    job = start_job(
        state,
        info,
        params,
        response,
        background,
        "/score",
        force=body.force,
        idempotency_key=idempotency_key,
        key_name=key_name,
    )
    return JobBody.of(job)


@router.get("/score", summary="Jobs, newest first")
def listing(
    session: ReadSession,
    model: ModelFilter = None,
    job_state: Annotated[JobState | None, Query(alias="state")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobList:
    page = list_jobs(session, PROFILE, model=model, state=job_state, limit=limit, cursor=cursor)
    return JobList(items=[JobBody.of(job) for job in page.items], next_cursor=page.next_cursor)


@router.get("/score/{job_id}", summary="A job", responses=NO_JOB)
def show(job_id: JobId, state: State) -> JobBody:
    return JobBody.of(read_job(state, job_id, PROFILE))


@router.get(
    "/score/{job_id}/events",
    summary="Follow a job: an event for each change, until it ends",
    response_class=EventSourceResponse,
    responses=FOLLOWED,
)
async def events(
    job_id: JobId, state: State, last_event_id: Annotated[str | None, Header(max_length=64)] = None
) -> Response:
    return await follow_job(state, job_id, PROFILE, JobBody.of, last_event_id)


@router.delete("/score/{job_id}", status_code=202, summary="Cancel a job", responses=CANCELLED)
def cancel(job_id: JobId, state: State) -> JobBody:
    return JobBody.of(end_by_request(state, job_id, PROFILE))
