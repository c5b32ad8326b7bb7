"""The scoring worker of the embedded cluster: one process with a lower priority than the serving one."""

from __future__ import annotations

import os
import sys

from headmap.settings import load_settings
from headmap.tracing import open_tracer
from services.embedded.lifeline import hold_lifeline
from services.embedded.metrics_folder import metrics_folder

_GRACE_SECONDS = 20.0
_NICE = 10


def main() -> int:
    hold_lifeline(_GRACE_SECONDS)
    os.nice(_NICE)  # answers come before profiles
    from services.scoring.tasks import create_worker
    from services.scoring.worker import run_worker
    from services.scoring.worker_metrics import ShardMetrics, count_in

    settings = load_settings()
    count_in(metrics_folder(settings))
    run_worker(create_worker(settings, ShardMetrics(), open_tracer("scoring-worker")), settings, pool="solo")
    return 0


if __name__ == "__main__":
    sys.exit(main())
