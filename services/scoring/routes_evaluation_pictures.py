"""Pictures of evaluations: their curve, and the pictures of their questions."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from headmap.datasets.sources import open_dataset
from headmap.errors import HeadmapError, PageNotFound
from headmap.pictures.curve import draw_curve
from headmap.pictures.drawing import PictureForm
from headmap.registry.evaluations import curve_of
from headmap.registry.job_params import EVALUATION
from services.scoring.deps import JobId, ScoringState, State
from services.scoring.job_calls import read_job
from services.scoring.routes_pictures import BUSY, drawn

router = APIRouter(tags=["evaluations"])

_NO_CURVE: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such evaluation"},
    409: {"description": "It has not succeeded"},
    429: BUSY,
}
QuestionId = Annotated[
    str, Path(max_length=64, pattern=r"^[0-9]{1,9}(-[0-9]{1,9})?$", description="question_id of an answer: PAGE-PLACE")
]


@router.get(
    "/evaluations/{job_id}/curve.svg",
    summary="An evaluation's curve as a picture",
    response_class=Response,
    responses={**_NO_CURVE, 200: {"content": {"image/svg+xml": {}}, "description": "The curve"}},
)
async def curve_svg(job_id: JobId, state: State) -> Response:
    return await drawn(state, "image/svg+xml", _curve, job_id, "svg")


@router.get(
    "/evaluations/{job_id}/curve.png",
    summary="An evaluation's curve as a picture",
    response_class=Response,
    responses={**_NO_CURVE, 200: {"content": {"image/png": {}}, "description": "The curve"}},
)
async def curve_png(job_id: JobId, state: State) -> Response:
    return await drawn(state, "image/png", _curve, job_id, "png")


def _curve(state: ScoringState, job_id: str, form: PictureForm) -> bytes:
    job = read_job(state, job_id, EVALUATION)
    return draw_curve(curve_of(job), job.model, job.params.dataset, form)


@router.get(
    "/evaluations/{job_id}/pictures/{question_id}",
    summary="The page that a question is about",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": "The page"},
        404: {"description": "No such evaluation, or its dataset's pages are not to be had here"},
        429: BUSY,
    },
)
async def question_picture(job_id: JobId, question_id: QuestionId, state: State) -> Response:
    """Public sets have no pages here, and a removed upload has none any more."""
    return await drawn(state, "image/png", _page, job_id, question_id)


def _page(state: ScoringState, job_id: str, question_id: str) -> bytes:
    params = read_job(state, job_id, EVALUATION).params
    number = int(question_id.partition("-")[0])
    try:
        source = open_dataset(params.dataset, state.settings, database=state.database, checksum=params.dataset_checksum)
        page = next(source.pages(params.seed, number, 1))
    except HeadmapError as error:
        if error.status >= 500:
            raise
        raise PageNotFound(f"question: {error.detail}", param="question_id") from error
    file = BytesIO()
    page.image.save(file, "PNG")
    return file.getvalue()
