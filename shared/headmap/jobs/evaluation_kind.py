"""The kind of job that evaluates a model: results are answers as JSON lines, and the fold makes a curve of them.

The answers stay, since they show what the curve means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy.orm import Session

from headmap.errors import InvalidDataset
from headmap.evaluation.answers import read_lines
from headmap.evaluation.curve import Curve, make_curve
from headmap.evaluation.metrics import get_metric
from headmap.evaluation.params import EvaluationParams
from headmap.jobs.work import ShardSpec
from headmap.registry.evaluations import file_curve, get_params
from headmap.registry.jobs import end_job
from headmap.registry.tables import Job, JobState

UNIT = "questions"


def parameters(session: Session, job: Job) -> Mapping[str, Any]:
    return get_params(session, job.id).to_json()


def check(job: Job, body: bytes) -> None:
    """Accept any answers: the fold sees whether they make a curve."""
    del job, body


def fold(spec: ShardSpec, bodies: Iterator[bytes]) -> Callable[[Session, Job], None]:
    """Compute the curve of all answers. Raises InvalidDataset if they make none: two questions have one id."""
    params = EvaluationParams.from_json(spec.parameters)
    rows = (row for body in bodies for row in read_lines(body))
    try:
        curve = make_curve(rows, get_metric(params.metric), params.margin)
    except ValueError as error:
        raise InvalidDataset(f"dataset: {error}", param="dataset") from error
    return lambda session, job: _settle(session, job, curve)


def _settle(session: Session, job: Job, curve: Curve) -> None:
    file_curve(session, job.id, curve)
    end_job(session, job, JobState.SUCCEEDED)
