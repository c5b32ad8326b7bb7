"""Evaluations over HTTP: how small may a model's cache be?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Query, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse

from headmap.evaluation.answers import read_lines, with_differences, write_lines
from headmap.evaluation.curve import Curve
from headmap.evaluation.selectors import check_selector
from headmap.http.bodies import SmallRoute
from headmap.jobs.evaluation_request import evaluation_params
from headmap.jobs.results import stream_results
from headmap.models import find_model
from headmap.registry import evaluations
from headmap.registry.evaluations import curve_of
from headmap.registry.job_params import EVALUATION
from headmap.registry.jobs import list_jobs
from headmap.registry.policies import PolicyRecord
from headmap.registry.tables import JobState
from services.scoring.deps import (
    Caller,
    Cursor,
    IdempotencyKey,
    JobId,
    KeyName,
    Limit,
    ModelFilter,
    ReadSession,
    ScoringState,
    State,
    WriteSession,
)
from services.scoring.evaluation_bodies import (
    EvaluationBody,
    EvaluationList,
    EvaluationRequest,
    PromoteRequest,
    asked_selector,
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
from services.scoring.preconditions import expected_of, must_be_absent
from services.scoring.routes_policies import CHANGED, ETAG, IfMatch, IfNoneMatch

router = APIRouter(route_class=SmallRoute, tags=["evaluations"])

_LOCATION = {"Location": {"description": "/evaluations/{id}", "schema": {"type": "string"}}}
_NO_RESULT: dict[int | str, dict[str, Any]] = {**NO_JOB, 409: {"description": "It has not succeeded"}}


@router.post(
    "/evaluations",
    status_code=202,
    summary="Measure how small the cache may be",
    responses={
        **STARTED,
        200: {"model": EvaluationBody, "description": "The job of an equal request", "headers": _LOCATION},
        202: {"description": "A new job", "headers": _LOCATION},
        404: {"description": "No such model, map or dataset"},
        409: {"description": "The model has no map, the map does not fit, or the Idempotency-Key was used otherwise"},
    },
)
def start(
    body: EvaluationRequest,
    state: State,
    response: Response,
    background: BackgroundTasks,
    key_name: KeyName,
    idempotency_key: IdempotencyKey = None,
) -> EvaluationBody:
    """Workers ask the model the dataset's questions with the full cache, and with each method, selector and ratio."""
    info = find_model(body.model, state.settings, body.revision)
    params = evaluation_params(
        state.database,
        info,
        dataset=body.dataset,
        map_name=body.map,
        questions=body.questions,
        methods=body.methods,
        ratios=body.ratios,
        selectors=[asked_selector(one) for one in body.selectors],
        metric=body.metric,
        max_new_tokens=body.max_new_tokens,
        margin=body.margin,
        seed=body.seed,
    )
    job = start_job(
        state,
        info,
        params,
        response,
        background,
        "/evaluations",
        force=body.force,
        idempotency_key=idempotency_key,
        key_name=key_name,
    )
    return EvaluationBody.of(job)


@router.get("/evaluations", summary="Evaluations, newest first")
def listing(
    session: ReadSession,
    model: ModelFilter = None,
    job_state: Annotated[JobState | None, Query(alias="state")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> EvaluationList:
    page = list_jobs(session, EVALUATION, model=model, state=job_state, limit=limit, cursor=cursor)
    return EvaluationList(items=[EvaluationBody.of(job) for job in page.items], next_cursor=page.next_cursor)


@router.get("/evaluations/{job_id}", summary="An evaluation, with its result", responses=NO_JOB)
def show(job_id: JobId, state: State) -> EvaluationBody:
    return EvaluationBody.of(read_job(state, job_id, EVALUATION))


@router.get(
    "/evaluations/{job_id}/events",
    summary="Follow an evaluation: an event for each change, until it ends",
    response_class=EventSourceResponse,
    responses=FOLLOWED,
)
async def events(
    job_id: JobId, state: State, last_event_id: Annotated[str | None, Header(max_length=64)] = None
) -> Response:
    return await follow_job(state, job_id, EVALUATION, EvaluationBody.of, last_event_id)


@router.delete("/evaluations/{job_id}", status_code=202, summary="Cancel an evaluation", responses=CANCELLED)
def cancel(job_id: JobId, state: State) -> EvaluationBody:
    return EvaluationBody.of(end_by_request(state, job_id, EVALUATION))


@router.get(
    "/evaluations/{job_id}/answers",
    summary="Every answer, as JSON lines",
    response_class=StreamingResponse,
    responses={
        **_NO_RESULT,
        200: {
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
            "description": "One answer a line, question by question, each beginning with the full cache's",
        },
    },
)
def answers(
    job_id: JobId,
    state: State,
    differs: Annotated[
        bool, Query(description="only answers that differ from the full cache's, each question's after the full one")
    ] = False,
) -> StreamingResponse:
    _curve(state, job_id)
    return StreamingResponse(
        _answers(state, job_id, differs),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="answers-{job_id}.jsonl"'},
    )


def _answers(state: ScoringState, job_id: str, differs: bool) -> Iterator[bytes]:
    for body in stream_results(state.database, job_id):
        yield write_lines(with_differences(read_lines(body))) if differs else body


def _curve(state: ScoringState, job_id: str) -> Curve:
    return curve_of(read_job(state, job_id, EVALUATION))


@router.post(
    "/evaluations/{job_id}/promote",
    summary="Make a policy of the recommended point, or of another",
    responses={
        **NO_JOB,
        **CHANGED,
        200: {"headers": ETAG},
        201: {"description": "The policy is new", "model": PolicyRecord, "headers": ETAG},
        409: {"description": "It has not succeeded, or recommends nothing"},
    },
)
def promote(
    job_id: JobId,
    body: PromoteRequest,
    session: WriteSession,
    caller: Caller,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> PolicyRecord:
    """The policy names the map by its id, and the evaluation that backs it."""
    record, new = evaluations.promote(
        session,
        job_id,
        body.policy,
        method=body.method,
        ratio=body.ratio,
        select=None if body.select is None else check_selector(asked_selector(body.select), "select"),
        by=caller,
        expected=expected_of(if_match, "VERSION"),
        absent=must_be_absent(if_none_match),
    )
    response.headers["ETag"] = f'"{record.version}"'
    response.status_code = 201 if new else 200
    return record
