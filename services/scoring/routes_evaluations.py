"""Evaluations over HTTP: how small may a model's cache be?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Query, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse

from headmap.errors import InvalidParameter, NothingRecommended
from headmap.evaluation.answers import read_lines, with_differences, write_lines
from headmap.evaluation.cases import FULL, Case
from headmap.evaluation.curve import Curve
from headmap.http.bodies import SmallRoute
from headmap.http.kv_body import KVBody
from headmap.jobs.evaluation_request import evaluation_params
from headmap.jobs.results import stream_results
from headmap.kvcache.methods import METHODS
from headmap.models import find_model
from headmap.registry import policies
from headmap.registry.evaluations import curve_of
from headmap.registry.job_params import EVALUATION
from headmap.registry.jobs import get_job, list_jobs
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
from services.scoring.evaluation_bodies import EvaluationBody, EvaluationList, EvaluationRequest, PromoteRequest
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
    """Workers ask the model the dataset's questions with the full cache, and with each method at each ratio."""
    info = find_model(body.model, state.settings, body.revision)
    params = evaluation_params(
        state.database,
        info,
        dataset=body.dataset,
        map_name=body.map,
        questions=body.questions,
        methods=body.methods,
        ratios=body.ratios,
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
    job = get_job(session, job_id, EVALUATION)
    case = _chosen(curve_of(job), job_id, body)
    method = METHODS[case.method]
    read = job.params.evaluation.map_id if method.needs_scores and job.params.evaluation is not None else None
    kv = KVBody(method=case.method, ratio=case.ratio if method.needs_budget else None, map=read)
    record, new = policies.put_policy(
        session,
        job.model,
        body.policy,
        kv.model_dump(exclude_none=True),
        by=caller,
        evaluation_id=job.id,
        expected=expected_of(if_match, "VERSION"),
        absent=must_be_absent(if_none_match),
    )
    response.headers["ETag"] = f'"{record.version}"'
    response.status_code = 201 if new else 200
    return record


def _chosen(curve: Curve, job_id: str, body: PromoteRequest) -> Case:
    """Raises NothingRecommended, and InvalidParameter for a point that was not measured."""
    if body.method is None:
        if body.ratio is not None:
            raise InvalidParameter(f"method: missing, with ratio {body.ratio:g}", param="method")
        if curve.recommended is None:
            raise NothingRecommended(
                f"evaluation: {job_id!r} recommends nothing: none of its points is sure to lose less than "
                f"{curve.margin:g}; name a method and a ratio"
            )
        return curve.recommended
    measured = {point.ratio for point in curve.points if point.method == body.method}
    ratio = 1.0 if body.ratio is None and body.method == FULL else body.ratio
    if ratio not in measured:
        param = "ratio" if measured else "method"
        known = ", ".join(str(point.case) for point in curve.points)
        raise InvalidParameter(f"{param}: {getattr(body, param)!r} was not measured; {known} were", param=param)
    return Case(body.method, ratio)
