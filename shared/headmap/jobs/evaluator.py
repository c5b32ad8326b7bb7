"""The scorer of evaluations: it answers a shard's questions with a model of this machine."""

from __future__ import annotations

from headmap.datasets.sources import open_dataset
from headmap.evaluation.answers import write_lines
from headmap.evaluation.metrics import Metric, get_metric
from headmap.evaluation.params import EvaluationParams
from headmap.evaluation.questions import QuestionSet
from headmap.evaluation.sources import open_named_questions, take_questions
from headmap.head_scores import HeadScores
from headmap.jobs.loaded_models import LoadedModels
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.registry.maps import get_scores
from headmap.registry.session import Database, open_database
from headmap.settings import Settings


class Evaluator:
    """Answers shards of evaluations. Holds the questions of the last shard's dataset."""

    def __init__(self, settings: Settings, models: LoadedModels) -> None:
        self._settings, self._models = settings, models
        self._opened: tuple[object, QuestionSet] | None = None
        self._database: Database | None = None

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        """Answer the shard's questions; fewer, or none, where the dataset ends before."""
        # imports torch: only in a worker, after its fork
        from headmap.device_errors import told_as_device_failed, told_as_out_of_memory
        from headmap.evaluation.runner import evaluate_questions

        params = EvaluationParams.from_json(spec.parameters)
        metric = get_metric(params.metric)
        database = self._database = self._database or open_database(self._settings, connections=0)
        asked = self._questions(spec, metric, database)
        take_questions(asked, spec.dataset, metric, count=params.questions, seed=spec.seed)
        scores = _scores(database, params.map_id)
        with told_as_device_failed(), told_as_out_of_memory(), self._models.use(spec.model, spec.revision) as loaded:
            rows = evaluate_questions(
                loaded,
                asked.questions(spec.seed, spec.first, spec.count),
                params.cases,
                scores,
                metric,
                on_page,
                max_new_tokens=spec.max_new_tokens,
                memory_bytes=self._settings.kv_memory_bytes,
            )
        return ShardResult(write_lines(rows))

    def _questions(self, spec: ShardSpec, metric: Metric, database: Database) -> QuestionSet:
        key = (spec.dataset, spec.dataset_checksum, metric.transcribes)
        if self._opened is None or self._opened[0] != key:
            asked = open_named_questions(
                spec.dataset,
                metric,
                lambda name: open_dataset(name, self._settings, database=database, checksum=spec.dataset_checksum),
                max_pixels=self._settings.max_image_pixels,
            )
            self._opened = (key, asked)
        return self._opened[1]


def _scores(database: Database, map_id: str | None) -> HeadScores | None:
    if map_id is None:
        return None
    with database.read() as session:
        return get_scores(session, map_id)
