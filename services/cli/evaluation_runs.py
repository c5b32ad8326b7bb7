"""The three ways in which `headmap evaluate` measures: at once, as a job that the registry keeps, and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.cli.commands.generate import find_map_scores
from services.cli.commands.score import name_dataset
from services.cli.common import fail, progress_bar

if TYPE_CHECKING:
    from headmap.datasets.sources import PageSource
    from headmap.evaluation.answers import AnswerRow
    from headmap.evaluation.cases import Case
    from headmap.evaluation.curve import Curve
    from headmap.kvcache.select import Select
    from headmap.models import ModelInfo
    from headmap.registry.session import Database
    from headmap.settings import Settings


@dataclass(frozen=True)
class Asked:
    """What the command line asks, besides the model. `cases` has the default selector where `selectors` is None."""

    dataset: str
    cases: Sequence[Case]
    selectors: Sequence[Select] | None
    map_name: str | None
    questions: int | None
    metric: str | None
    margin: float
    max_new_tokens: int | None
    seed: int


@dataclass(frozen=True)
class Measured:
    curve: Curve
    rows: Sequence[AnswerRow]
    metric: str
    map_id: str | None
    evaluation_id: str | None = None


def measure(database: Database, settings: Settings, info: ModelInfo, asked: Asked) -> Measured:
    """Measure in this process, and file nothing."""
    from headmap.evaluation.curve import make_curve
    from headmap.evaluation.metrics import get_metric
    from headmap.evaluation.sources import open_questions, take_questions
    from headmap.kvcache.methods import METHODS

    needs_map = any(METHODS[case.method].needs_scores for case in asked.cases)
    found = find_map_scores(settings, info, asked.map_name) if needs_map else None
    if needs_map and found is None:
        fail(f"{info.name} has no map, which sparsemm needs; make one with: headmap score {info.name}")
    from headmap.evaluation.runner import evaluate_questions
    from headmap.families.loading import load_model

    metric = None if asked.metric is None else get_metric(asked.metric)
    source = open_questions(
        asked.dataset, metric, lambda name: _pages(name, settings, database), max_pixels=settings.max_image_pixels
    )
    metric = metric or get_metric(source.metric)
    count = take_questions(source, asked.dataset, metric, count=asked.questions, seed=asked.seed)
    loaded = load_model(info, device=settings.device, dtype=settings.dtype)
    with _bar(info, count) as tell:
        rows = evaluate_questions(
            loaded,
            source.questions(asked.seed, 0, count),
            asked.cases,
            found and found[2],
            metric,
            lambda done: tell(done, count),
            max_new_tokens=asked.max_new_tokens or source.max_new_tokens,
            memory_bytes=settings.kv_memory_bytes,
        )
    return Measured(make_curve(rows, metric, asked.margin), rows, metric.name, found and found[0].id)


def measure_and_file(database: Database, settings: Settings, info: ModelInfo, asked: Asked) -> Measured:
    """Measure as a job of the registry, in this process. A folder of pages is added to the registry as a dataset."""
    from headmap.evaluation.answers import read_lines
    from headmap.evaluation.cases import DEFAULT_SELECTORS, FULL
    from headmap.evaluation.public_sets import find_local_files
    from headmap.jobs.evaluation_request import evaluation_params
    from headmap.jobs.local import profile_here
    from headmap.jobs.results import stream_results
    from headmap.jobs.scorers import WorkerScorer
    from headmap.registry.evaluations import curve_of
    from services.cli.registry.local import LocalRegistry

    if find_local_files(asked.dataset):
        fail(f"--save: only data with a name can be filed, got files in {asked.dataset}", code=2)
    params = evaluation_params(
        database,
        info,
        dataset=name_dataset(asked.dataset, LocalRegistry(database, settings.data_dir)),
        map_name=asked.map_name,
        questions=asked.questions,
        methods=list(dict.fromkeys(case.method for case in asked.cases)),
        ratios=sorted({case.ratio for case in asked.cases if case.method != FULL}),
        selectors=asked.selectors or DEFAULT_SELECTORS,
        metric=asked.metric,
        max_new_tokens=asked.max_new_tokens,
        margin=asked.margin,
        seed=asked.seed,
    )
    with _bar(info, params.pages) as tell:
        job = profile_here(database, settings, info, params, WorkerScorer(settings), on_progress=tell)
    if job.result is None or params.evaluation is None:
        fail(job.error or f"evaluation {job.id} was {job.state.value}")
    rows = [row for body in stream_results(database, job.id) for row in read_lines(body)]
    return Measured(curve_of(job), rows, params.evaluation.metric, params.evaluation.map_id, job.id)


def measure_there(url: str, model: str, asked: Asked, *, with_answers: bool, cancel_on_interrupt: bool) -> Measured:
    """Measure on a cluster, which keeps the curve. A folder of pages is added to its datasets."""
    from headmap.evaluation.cases import FULL
    from headmap.evaluation.curve import Curve
    from headmap.evaluation.public_sets import find_local_files
    from headmap.evaluation.selectors import selector_to_json
    from services.cli.registry.remote import RemoteRegistry
    from services.cli.remote import calls
    from services.cli.remote.client import open_client
    from services.cli.remote.watching import watch_job
    from services.scoring.evaluation_bodies import EvaluationBody

    if find_local_files(asked.dataset):
        fail(f"--dataset: a cluster reads public sets from its Hub cache, got files in {asked.dataset}", code=2)
    with open_client(url) as client:
        wish: dict[str, Any] = {
            "model": model,
            "map": asked.map_name,
            "dataset": name_dataset(asked.dataset, RemoteRegistry(client)),
            "questions": asked.questions,
            "methods": list(dict.fromkeys(case.method for case in asked.cases)),
            "ratios": sorted({case.ratio for case in asked.cases if case.method != FULL}),
            "selectors": asked.selectors and [selector_to_json(select) for select in asked.selectors],
            "metric": asked.metric,
            "max_new_tokens": asked.max_new_tokens,
            "margin": asked.margin,
            "seed": asked.seed,
        }
        given = {name: value for name, value in wish.items() if value is not None}
        job = calls.start_job(client, given, EvaluationBody)
        job = watch_job(
            client,
            job,
            noun="evaluation",
            unit="questions",
            title=f"Asking {model}",
            again="the same command",
            cancel_on_interrupt=cancel_on_interrupt,
        )
        if job.result is None:
            fail(job.error or f"evaluation {job.id} was {job.state.value}")
        curve = Curve.from_json({**job.result.model_dump(), "margin": job.params.margin})
        rows = calls.answers(client, job.id) if with_answers else []
    return Measured(curve, rows, job.params.metric, job.map_id, job.id)


@contextmanager
def _bar(info: ModelInfo, total: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as a function to tell of the questions done and of all."""
    with progress_bar("questions") as bar:
        task = bar.add_task(f"Asking {info.name}", total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _pages(name: str, settings: Settings, database: Database) -> PageSource:
    """The pages of a named dataset, or of a folder, which stays as it is."""
    from headmap.datasets.page_folder import PageFolder
    from headmap.datasets.records import INDEX_FILE
    from headmap.datasets.sources import BUILT_IN, StoredPages, open_dataset

    folder = Path(name)
    if name not in BUILT_IN and (folder / INDEX_FILE).is_file():
        pages = PageFolder(folder, max_pixels=settings.max_image_pixels)
        return StoredPages(pages.size, pages.page)
    return open_dataset(name, settings, database=database)
