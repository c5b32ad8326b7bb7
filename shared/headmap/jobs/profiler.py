"""The scorer that runs a model of this machine, loaded once per worker process."""

from __future__ import annotations

from typing import Any

from headmap.datasets.sources import PageSource, open_dataset
from headmap.errors import DeviceFailed
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.models import find_model
from headmap.registry.session import Database, open_database
from headmap.settings import Settings


class ProfilerScorer:
    """Scores shards with `headmap.scoring.profile.Profiler`. Holds the model and the dataset of the last shard."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: tuple[tuple[str, str], Any] | None = None
        self._opened: tuple[tuple[str, str | None], PageSource] | None = None
        self._database: Database | None = None

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        try:
            sums, looks = self._profiler(spec).score(
                self._source(spec).pages(spec.seed, spec.first, spec.count),
                first=spec.first,
                rule=spec.parameters["rule"],
                max_new_tokens=spec.max_new_tokens,
                on_page=on_page,
            )
        except RuntimeError as error:
            from headmap.device_errors import is_broken_device  # imports torch, as below

            if is_broken_device(error):
                raise DeviceFailed(f"the worker's device failed: {str(error).partition(chr(10))[0]}") from error
            raise
        return ShardResult(sums.to_bytes(), looks)

    def _source(self, spec: ShardSpec) -> PageSource:
        key = (spec.dataset, spec.dataset_checksum)
        if self._opened is None or self._opened[0] != key:
            self._database = self._database or open_database(self._settings, connections=0)
            source = open_dataset(spec.dataset, self._settings, database=self._database, checksum=spec.dataset_checksum)
            self._opened = (key, source)
        return self._opened[1]

    def _profiler(self, spec: ShardSpec) -> Any:
        key = (spec.model, spec.revision)
        if self._loaded is None or self._loaded[0] != key:
            from headmap.scoring.profile import Profiler  # imports torch: only in a worker, after its fork

            self._loaded = None  # frees the former model first
            info = find_model(spec.model, self._settings, spec.revision)
            settings = self._settings
            profiler = Profiler(info, device=settings.device, dtype=settings.dtype, batch=settings.scoring_batch)
            self._loaded = (key, profiler)
        return self._loaded[1]
