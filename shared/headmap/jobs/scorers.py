"""A worker's scorer: one for each kind of job, over the one model that the worker holds."""

from __future__ import annotations

from headmap.jobs.evaluator import Evaluator
from headmap.jobs.loaded_models import LoadedModels
from headmap.jobs.profiler import ProfilerScorer
from headmap.jobs.work import OnPage, ShardResult, ShardScorer, ShardSpec
from headmap.registry.job_params import EVALUATION, PROFILE
from headmap.settings import Settings


class WorkerScorer:
    """Scores shards of any kind. Make one in each process, after its fork."""

    def __init__(self, settings: Settings) -> None:
        models = LoadedModels(settings)
        self._scorers: dict[str, ShardScorer] = {
            PROFILE: ProfilerScorer(settings, models),
            EVALUATION: Evaluator(settings, models),
        }

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        return self._scorers[spec.kind](spec, on_page)
