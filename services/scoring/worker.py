"""Run a scoring worker: `python -m services.scoring.worker --pool solo` (one machine) or `--pool prefork` (cluster).

`--check` asks a running worker of this host whether it lives, for a container's health check (Redis only). While
Redis cannot be reached, no worker is to blame: that passes.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import tempfile
import warnings
from pathlib import Path

from celery import Celery, signals
from celery.exceptions import SecurityWarning
from kombu.exceptions import OperationalError

from headmap.http.keyring import KeyRing
from headmap.http.logs import setup_logging
from headmap.jobs.celery_app import worker_arguments
from headmap.registry.keys import KeyReader
from headmap.registry.migrations import start_fault
from headmap.registry.session import open_database
from headmap.settings import Settings, load_settings
from headmap.tracing import open_tracer
from services.scoring.tasks import create_worker
from services.scoring.worker_metrics import ShardMetrics, count_in, serve_metrics, worker_registry

logger = logging.getLogger("headmap.scoring")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", choices=("solo", "prefork"), default="solo")
    parser.add_argument("--concurrency", type=int, default=1, help="processes, each with a model of its own")
    parser.add_argument("--metrics-port", type=int, help="serve /metrics there; not at all when left out")
    parser.add_argument("--check", action="store_true", help="only ask whether the worker of this host answers")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported: spinning threads starve others
    settings = load_settings()
    if arguments.check:
        return 0 if answers(create_worker(settings), f"scoring@{socket.gethostname()}") else 1
    if (fault := start_fault(settings)) is not None:
        setup_logging(settings, "scoring-worker")
        logger.critical("%s", fault)
        return 1
    with tempfile.TemporaryDirectory(prefix="headmap-metrics-") as folder:
        count_in(Path(folder))
        app = create_worker(settings, ShardMetrics(), open_tracer("scoring-worker"))
        if arguments.metrics_port is not None:
            tell_metrics(app, settings, Path(folder), arguments.metrics_port)
        run_worker(app, settings, pool=arguments.pool, concurrency=arguments.concurrency)
    return 0


def answers(app: Celery, worker: str) -> bool:
    """Whether the worker answers within 5 seconds, or nobody could ask it because the broker does not answer."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            return bool(app.control.ping(destination=[worker], timeout=5, connection=connection))
    except (OperationalError, *app.connection_for_write().connection_errors) as error:
        logger.warning("the broker cannot be asked for %s: %s", worker, error)
        return True


def tell_metrics(app: Celery, settings: Settings, folder: Path, port: int) -> None:
    """Serve the counts in `folder` once the worker is ready. Children that exist by then do not hold the port."""

    def leases_taken_back() -> int:
        sweeper = app.headmap_runtime.sweeper
        return 0 if sweeper is None else sweeper.leases_taken_back

    def serve(**_: object) -> None:
        database = open_database(settings, connections=0)
        keys = KeyRing(settings, KeyReader(lambda: database))
        serve_metrics(worker_registry(folder, leases_taken_back), keys, port)

    signals.worker_ready.connect(serve, weak=False)


def run_worker(app: Celery, settings: Settings, *, pool: str, concurrency: int = 1) -> None:
    """Work until SIGTERM, which hands running shards back and ends the worker within a page."""

    def set_up(**_: object) -> None:
        setup_logging(settings, "scoring-worker")
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)  # each shard is told once, by headmap.jobs.runner

    signals.setup_logging.connect(set_up, weak=False)  # with a receiver here Celery leaves logging alone
    warnings.filterwarnings("ignore", category=SecurityWarning)  # of root and pickle; only JSON is accepted
    app.worker_main(worker_arguments(pool=pool, concurrency=concurrency, log_level=settings.log_level))


if __name__ == "__main__":
    sys.exit(main())
