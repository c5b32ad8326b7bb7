"""A real scoring worker whose scorer needs no model: `python -m tests.integration.fake_worker POOL SECONDS_A_PAGE`."""

from __future__ import annotations

import sys

from headmap.jobs.celery_app import create_celery
from headmap.settings import Settings
from services.scoring.worker import run_worker
from tests.shared.jobs.fakes import FakeScorer


def main() -> None:
    pool, pause = sys.argv[1], float(sys.argv[2])
    settings = Settings()
    run_worker(create_celery(settings, lambda _: FakeScorer(pause=pause)), settings, pool=pool)


if __name__ == "__main__":
    main()
