"""The Celery application: one task, JSON only, acknowledged when done, no results kept.

The API process builds it to send tasks; a worker builds it to run them, with a runtime that opens the registry and the
model only after the fork. The broker is a folder on one machine (`filesystem_broker.py`) and Redis in a cluster; the
task is the same.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from headmap.jobs.celery_broker import TASK, CeleryBroker, celery_queue
from headmap.jobs.filesystem_broker import transport_options
from headmap.jobs.queue_turns import QueueTurns
from headmap.jobs.queues import PREFIX
from headmap.jobs.runner import Observe, unobserved
from headmap.jobs.subscriptions import FindModels
from headmap.jobs.worker_runtime import ScorerFactory, WorkerRuntime
from headmap.jobs.worker_steps import WorkerSteps
from headmap.models import models_here
from headmap.settings import Settings


def create_celery(
    settings: Settings,
    scorer_factory: ScorerFactory | None = None,
    observe: Observe = unobserved,
    find_models: FindModels = models_here,
) -> Celery:
    """Make the Celery application of one process. A worker needs `scorer_factory`, a sender does not.

    The process that attempts a shard calls `observe` after the attempt. A worker takes shards of the models that
    `find_models` finds.
    """
    embedded = settings.broker_url is None
    broker = "filesystem://localhost" if embedded else settings.celery_broker_url
    app = Celery("headmap", broker=broker, set_as_current=False)
    hard = settings.shard_time_limit
    app.conf.update(
        broker_transport="headmap.jobs.filesystem_broker:Transport" if embedded else None,
        broker_transport_options=transport_options(settings) if embedded else _redis_options(settings),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_default_queue=PREFIX,
        task_queues=[celery_queue(PREFIX)],  # a worker adds those of its models
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the lease decides, not the broker
        task_publish_retry=False,
        task_time_limit=hard,
        # Celery interrupts and then kills a scorer that runs longer than `shard_seconds`.
        task_soft_time_limit=0.95 * hard,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=not embedded,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=10.0,
        worker_proc_alive_timeout=60.0,
        enable_utc=True,
    )
    if scorer_factory is not None:
        runtime = WorkerRuntime(settings, scorer_factory, observe, CeleryBroker(app), find_models)
        app.headmap_runtime = runtime
        app.task(runtime.score_shard, name=TASK, ignore_result=True)
        app.steps["worker"].add(WorkerSteps)
    return app


def _redis_options(settings: Settings) -> dict[str, Any]:
    return {
        # above the hard limit: Redis must not redeliver the message of a running shard
        "visibility_timeout": settings.shard_time_limit + 600,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "priority_steps": [0],  # one list for each queue
        "queue_order_strategy": lambda: QueueTurns(settings.model_turn_seconds),
    }


def worker_arguments(*, pool: str = "solo", concurrency: int = 1, log_level: str = "INFO") -> list[str]:
    """Return arguments for `Celery.worker_main`: `solo` on one machine, `prefork` in a cluster (for hard limits)."""
    return [
        "--quiet",
        "worker",
        f"--pool={pool}",
        f"--concurrency={concurrency}",
        f"--loglevel={log_level}",
        "--without-gossip",
        "--without-mingle",
        "--hostname=scoring@%h",
    ]
