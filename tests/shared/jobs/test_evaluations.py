"""Evaluations as jobs: one curve whoever answers, the same as without a registry, and errors that name the field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from headmap.datasets.sources import MADE_UP, MadeUpPages
from headmap.errors import DatasetUnavailable
from headmap.evaluation.answers import AnswerRow, read_lines
from headmap.evaluation.cases import make_cases
from headmap.evaluation.curve import make_curve
from headmap.evaluation.metrics import get_metric
from headmap.evaluation.params import make_params
from headmap.evaluation.questions import PageQuestions
from headmap.jobs.evaluation_request import evaluation_params
from headmap.jobs.leases import Lease, complete, complete_fold
from headmap.jobs.local import profile_here
from headmap.jobs.results import stream_results
from headmap.jobs.scorers import WorkerScorer
from headmap.jobs.work import ShardResult
from headmap.models import find_model
from headmap.registry.job_params import JobParams, request_hash
from headmap.registry.jobs import JobRecord, cancel_job
from headmap.registry.session import Database
from headmap.registry.tables import FOLD, JobState, StoredResult
from headmap.settings import DEMO_MODEL, Settings
from tests.shared.evaluation.test_questions import ROWS, write
from tests.shared.jobs import steps
from tests.shared.jobs.fake_answers import FakeEvaluator, fake_answer
from tests.shared.jobs.fakes import INFO

ASKED = make_params(["snapkv"], [0.1, 0.4], ["snapkv"], metric="exact", margin=0.9, questions=None)
PARAMS = JobParams(dataset="forms", pages=10, rule=None, seed=0, max_new_tokens=32, evaluation=ASKED)


def answer(database: Database, found: Lease, scorer: FakeEvaluator) -> bool:
    result = scorer(found.spec, lambda done: None)
    with database.write() as session:
        return complete(session, found, result)


def answers_of(database: Database, job_id: str) -> list[AnswerRow]:
    return [row for body in stream_results(database, job_id) for row in read_lines(body)]


def untimed(result: Any) -> dict[str, Any]:
    """What does not depend on who answered."""
    return {**result, "points": [{**point, "token_ms": None} for point in result["points"]]}


def test_a_killed_worker_leaves_the_same_curve_and_the_same_answers(database: Database) -> None:
    calm, rough = (steps.make_job(database, params=PARAMS) for _ in range(2))
    for number in range(steps.SHARDS):
        answer(database, steps.held(database, calm, number), FakeEvaluator())
    for number in (2, 0, 1):
        late = steps.held(database, rough, number, "killed")
        steps.let_run_out(database, rough)
        answer(database, steps.held(database, rough, number, "other"), FakeEvaluator(owner_ms=9))
        assert not answer(database, late, FakeEvaluator())
    steps.held(database, rough, FOLD, "killed")  # in the middle of the fold
    steps.let_run_out(database, rough)
    for job in (calm, rough):
        steps.fold_if_due(database, job)
    first, second = steps.read_job(database, calm), steps.read_job(database, rough)
    assert (first.state, second.state, second.attempts) == (JobState.SUCCEEDED, JobState.SUCCEEDED, 2)
    assert untimed(first.result) == untimed(second.result)
    expected = [fake_answer(number, case, token_ms=None) for number in range(10) for case in ASKED.cases]
    for job in (calm, rough):
        assert [replace(row, token_ms=None) for row in answers_of(database, job)] == expected


def test_of_two_workers_that_fold_one_writes_the_result(database: Database) -> None:
    job = steps.make_job(database, params=PARAMS)
    for number in range(steps.SHARDS):
        answer(database, steps.held(database, job, number), FakeEvaluator())
    late = steps.held(database, job, FOLD, "late")
    steps.let_run_out(database, job)
    steps.fold_if_due(database, job)
    result = steps.read_job(database, job).result
    with database.write() as session:
        complete_fold(session, late, lambda session, job: pytest.fail("settled twice"))
    assert steps.read_job(database, job).result == result


def test_a_cancelled_evaluation_keeps_no_answers(database: Database) -> None:
    job = steps.make_job(database, params=PARAMS)
    answer(database, steps.held(database, job, 0), FakeEvaluator())
    with database.write() as session:
        cancel_job(session, job)
        assert session.scalar(select(func.count()).select_from(StoredResult)) == 0


def test_questions_of_one_id_fail_the_job_by_its_field(database: Database, settings: Settings) -> None:
    class Twice(FakeEvaluator):
        def __call__(self, spec: Any, on_page: Any) -> ShardResult:
            return super().__call__(replace(spec, first=0), on_page)

    small = settings.model_copy(update={"shard_questions": 5})
    job = profile_here(database, small, INFO, PARAMS, Twice())
    assert job.state is JobState.FAILED
    assert job.error == "the fold failed: dataset: question '0-0' is answered twice at full"


def test_an_evaluation_with_snapkv_alone_equals_one_of_before_selectors() -> None:
    assert request_hash(INFO, PARAMS) == "302732adf059428db463278ac3380c737cbfb35823a438af05a10b20acd72cfb"
    other = make_params(["snapkv"], [0.1, 0.4], ["last-query"], metric="exact", margin=0.9, questions=None)
    assert request_hash(INFO, replace(PARAMS, evaluation=other)) != request_hash(INFO, PARAMS)


def asked(database: Database, **fields: Any) -> JobParams:
    values: dict[str, Any] = {
        "dataset": "synthetic", "map_name": None, "questions": 5, "methods": ["snapkv"], "ratios": [0.1],
        "selectors": ["snapkv"], "metric": None, "max_new_tokens": 8, "margin": 0.5, "seed": 4,
    }  # fmt: skip
    return evaluation_params(database, find_model(DEMO_MODEL, Settings()), **{**values, **fields})


def run_here(database: Database, settings: Settings, params: JobParams) -> JobRecord:
    return profile_here(database, settings, find_model(DEMO_MODEL, settings), params, WorkerScorer(settings))


def test_the_curve_is_that_of_the_same_questions_without_a_registry(database: Database, settings: Settings) -> None:
    from headmap.evaluation.runner import evaluate_questions
    from headmap.families.loading import load_model

    small = settings.model_copy(update={"shard_questions": 2})
    params = asked(database)
    job = run_here(database, small, params)
    assert (job.state, job.done, job.error) == (JobState.SUCCEEDED, 5, None)
    rows = evaluate_questions(
        load_model(find_model(DEMO_MODEL, settings)),
        PageQuestions(MadeUpPages(MADE_UP["synthetic"])).questions(4, 0, 5),
        make_cases(["snapkv"], [0.1], ["snapkv"]),
        None,
        get_metric("exact"),
        max_new_tokens=8,
    )
    found = answers_of(database, job.id)
    assert [replace(row, token_ms=None) for row in found] == [replace(row, token_ms=None) for row in rows]
    curve = make_curve(rows, get_metric("exact"), 0.5)
    assert job.result is not None
    assert untimed(job.result) == untimed(json.loads(json.dumps(curve.to_json())))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache with the three questions of me/charts."""
    repo = tmp_path / "hub" / "datasets--me--charts"
    write(repo / "snapshots" / ("a" * 40) / "data", "chartqa", ROWS["chartqa"])
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repo.parent))
    return repo


@pytest.mark.usefixtures("hub")
def test_a_public_set_is_asked_to_its_end(database: Database, settings: Settings) -> None:
    small = settings.model_copy(update={"shard_questions": 2})
    params = asked(database, dataset="me/charts/data", metric="relaxed", questions=None)
    job = run_here(database, small, replace(params, pages=5))
    assert job.state is JobState.SUCCEEDED, job.error
    assert {row.question_id for row in answers_of(database, job.id)} == {"0", "1", "2"}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dataset": "me/charts"}, "questions 0 to 7 failed: questions: 'me/charts' has 3, got 9"),
        ({"dataset": "me/charts/none", "questions": None}, "dataset: me/charts has no parquet files at 'none'"),
        ({"dataset": "me/charts", "questions": 3, "metric": "vqa"}, "metric: 'vqa' takes at least 4"),
        ({"questions": 1, "max_new_tokens": 30_000}, "above the model's context"),
    ],
)
def test_what_only_a_worker_can_see_ends_the_job_by_its_field(
    database: Database, settings: Settings, fields: dict[str, Any], named: str
) -> None:
    whole = settings.model_copy(update={"shard_questions": 8})
    job = run_here(database, whole, asked(database, **{"questions": 9, "metric": "anls", **fields}))
    assert job.state is JobState.FAILED
    assert named in (job.error or "")


def test_a_set_that_is_not_on_this_host_is_no_wrong_request(database: Database, settings: Settings) -> None:
    job = steps.make_job(database, params=asked(database, dataset="nobody/none", metric="anls"))
    with pytest.raises(DatasetUnavailable, match="not in the local Hub cache"):
        WorkerScorer(settings)(steps.held(database, job, 0).spec, lambda done: None)
