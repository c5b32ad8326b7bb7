"""From what a caller asks of an evaluation to the parameters of its job, without opening the dataset or the model."""

from __future__ import annotations

from collections.abc import Sequence

from headmap.datasets.sources import find_dataset
from headmap.evaluation.metrics import get_metric
from headmap.evaluation.params import make_params
from headmap.evaluation.public_sets import is_hub_id
from headmap.evaluation.sources import choose_marking, fit_count
from headmap.kvcache.select import Select
from headmap.models import ModelInfo
from headmap.registry.evaluations import choose_map
from headmap.registry.job_params import JobParams
from headmap.registry.session import Database


def evaluation_params(
    database: Database,
    info: ModelInfo,
    *,
    dataset: str,
    map_name: str | None,
    questions: int | None,
    methods: Sequence[str],
    ratios: Sequence[float],
    selectors: Sequence[str | Select],
    metric: str | None,
    max_new_tokens: int | None,
    margin: float,
    seed: int,
) -> JobParams:
    """Fill in what the caller left out (None), and resolve the map.

    Checks what needs no worker. Raises as `choose_marking`, `make_params`, `fit_count`, `choose_map` and, for all but
    public sets, `find_dataset` do.
    """
    found = None if is_hub_id(dataset) else find_dataset(dataset, database)
    marked, most = choose_marking(dataset, None if metric is None else get_metric(metric))
    asked = make_params(methods, ratios, selectors, metric=marked.name, margin=margin, questions=questions)
    size = None if found is None else found.size if marked.transcribes else found.questions
    count = fit_count(dataset, questions, size)
    with database.read() as session:
        asked = choose_map(session, info, asked, map_name)
    return JobParams(
        dataset=dataset,
        pages=count,
        rule=None,
        seed=seed,
        max_new_tokens=max_new_tokens or most,
        dataset_checksum=None if found is None else found.checksum,
        evaluation=asked,
    )
