"""Made-up pages to try: a picture, and questions whose answers are known."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from headmap.scoring.pages import Page, make_page

router = APIRouter(prefix="/dashboard/samples")

SERIES = 1
"""Pages of another series than the form's first profile (seed 0) and of streams that no training draws from."""

Index = Annotated[int, Path(ge=0, le=99)]


class QuestionBody(BaseModel):
    question: str
    answer: str


class SampleBody(BaseModel):
    """Width and height in pixels."""

    index: int
    width: int
    height: int
    questions: list[QuestionBody]


@router.get("/{index}")
def describe(index: Index) -> SampleBody:
    page = _page(index)
    questions = [QuestionBody(question=one.question, answer=one.answer) for one in page.questions]
    return SampleBody(index=index, width=page.image.width, height=page.image.height, questions=questions)


@router.get("/{index}/picture.png", response_class=Response)
def picture(index: Index) -> Response:
    file = BytesIO()
    _page(index).image.save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png", headers={"Cache-Control": "public, max-age=86400"})


def _page(index: int) -> Page:
    return make_page(SERIES, index)
