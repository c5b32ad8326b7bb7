"""A worker's part of a job on the bundled model, without the model."""

from __future__ import annotations

from headmap.jobs.leases import complete
from headmap.jobs.work import ShardScorer
from headmap.models import find_model
from headmap.registry.job_params import EVALUATION, PROFILE
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from tests.shared.jobs import steps
from tests.shared.jobs.fake_answers import FakeEvaluator
from tests.shared.jobs.fakes import FakeScorer


def finish(database: Database, job_id: str, *, shards: int | None = None) -> None:
    """Do the job's first `shards` shards, or all, also those that it gets on the way. It may be of any kind."""
    info = find_model(DEMO_MODEL, Settings())
    scorers: dict[str, ShardScorer] = {
        PROFILE: FakeScorer(shape=(info.num_layers, info.num_heads)),
        EVALUATION: FakeEvaluator(),
    }
    number = 0
    while number != shards and (found := steps.lease(database, job_id, number)) is not None:
        result = scorers[found.spec.kind](found.spec, lambda done: None)
        with database.write() as session:
            complete(session, found, result)
        steps.fold_if_due(database, job_id)
        number += 1
