"""A real scoring worker whose scorer needs no model: `python -m tests.integration.fake_worker POOL SECONDS_A_PAGE`.

A third argument names a model whose layers and heads the made-up scores have.
"""

from __future__ import annotations

import sys

from headmap.jobs.celery_app import create_celery
from headmap.models import find_model
from headmap.settings import Settings
from services.scoring.worker import run_worker
from tests.shared.jobs.fakes import HEADS, LAYERS, FakeScorer


def main() -> None:
    pool, pause = sys.argv[1], float(sys.argv[2])
    settings = Settings()
    shape = (LAYERS, HEADS)
    if len(sys.argv) > 3:
        info = find_model(sys.argv[3], settings)
        shape = (info.num_layers, info.num_heads)
    run_worker(create_celery(settings, lambda _: FakeScorer(pause=pause, shape=shape)), settings, pool=pool)


if __name__ == "__main__":
    main()
