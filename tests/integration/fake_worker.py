"""A real scoring worker whose scorer needs no model: `python -m tests.integration.fake_worker --pause SECONDS`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path

from headmap.errors import DeviceFailed, ModelNotUsable
from headmap.jobs.celery_app import create_celery
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.models import find_model, models_here
from headmap.registry.job_params import EVALUATION
from headmap.settings import Settings
from headmap.tracing import open_tracer
from services.scoring.worker import run_worker, tell_metrics
from services.scoring.worker_metrics import ShardMetrics, count_in
from tests.shared.jobs.fake_answers import FakeEvaluator
from tests.shared.jobs.fakes import HEADS, INFO, LAYERS, FakeScorer

logger = logging.getLogger("headmap.jobs.fake")

MODELS = (INFO.name, "fake/other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", default="solo")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--poison", type=int, help="a job of this seed kills the process that scores it")
    parser.add_argument("--broken-device", action="store_true", help="as its scorer finds on the first shard")
    parser.add_argument("--lacks", help="a model that this worker takes shards of, and then finds that it cannot load")
    parser.add_argument("--model", help="made-up scores have its layers and heads")
    parser.add_argument("--metrics", type=Path, help="count in this folder")
    parser.add_argument("--metrics-port", type=int)
    arguments = parser.parse_args()
    settings = Settings()
    shape = (LAYERS, HEADS)
    if arguments.model:
        info = find_model(arguments.model, settings)
        shape = (info.num_layers, info.num_heads)
    count_in(arguments.metrics)
    scorer = FakeScorer(pause=arguments.pause, shape=shape)
    evaluator = FakeEvaluator(pause=arguments.pause, owner_ms=os.getpid())
    held = [""]

    def score(spec: ShardSpec, on_page: OnPage) -> ShardResult:
        if spec.model == arguments.lacks:
            raise ModelNotUsable(f"model: {spec.model!r} cannot be loaded")
        if held[0] != spec.model:
            held[0] = spec.model
            logger.info("model loaded", extra={"model": spec.model})
        if spec.seed == arguments.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if arguments.broken_device:
            raise DeviceFailed("the worker's device failed")
        return evaluator(spec, on_page) if spec.kind == EVALUATION else scorer(spec, on_page)

    made_up = {(name, INFO.revision) for name in MODELS}
    tracer = open_tracer("scoring-worker")
    app = create_celery(settings, lambda _: score, ShardMetrics(), tracer, lambda _: made_up | models_here(settings))
    if arguments.metrics_port:
        tell_metrics(app, settings, arguments.metrics, arguments.metrics_port)
    run_worker(app, settings, pool=arguments.pool)


if __name__ == "__main__":
    main()
