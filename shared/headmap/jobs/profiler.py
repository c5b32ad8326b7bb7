"""The scorer that runs a model of this machine."""

from __future__ import annotations

from headmap.datasets.sources import PageSource, open_dataset
from headmap.jobs.loaded_models import LoadedModels
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.registry.session import Database, open_database
from headmap.settings import Settings


class ProfilerScorer:
    """Scores shards with `headmap.scoring.profile.Profiler`. Holds the dataset of the last shard."""

    def __init__(self, settings: Settings, models: LoadedModels | None = None) -> None:
        self._settings = settings
        self._models = models or LoadedModels(settings)
        self._opened: tuple[tuple[str, str | None], PageSource] | None = None
        self._database: Database | None = None

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        from headmap.device_errors import told_as_device_failed, told_as_out_of_memory  # imports torch, as below

        with told_as_device_failed(), told_as_out_of_memory(), self._models.use(spec.model, spec.revision) as loaded:
            from headmap.scoring.profile import Profiler

            sums, looks = Profiler(loaded, batch=self._settings.scoring_batch).score(
                self._source(spec).pages(spec.seed, spec.first, spec.count),
                first=spec.first,
                kind=spec.parameters["kind"],
                rule=spec.parameters["rule"],
                max_new_tokens=spec.max_new_tokens,
                on_page=on_page,
            )
        return ShardResult(sums.to_bytes(), looks)

    def _source(self, spec: ShardSpec) -> PageSource:
        key = (spec.dataset, spec.dataset_checksum)
        if self._opened is None or self._opened[0] != key:
            self._database = self._database or open_database(self._settings, connections=0)
            source = open_dataset(spec.dataset, self._settings, database=self._database, checksum=spec.dataset_checksum)
            self._opened = (key, source)
        return self._opened[1]
