"""The worker's side: the one task of headmap.jobs, with the scorer that loads a model."""

from __future__ import annotations

from celery import Celery

from headmap.jobs.celery_app import create_celery
from headmap.jobs.runner import Observe, unobserved
from headmap.jobs.scorers import WorkerScorer
from headmap.settings import Settings
from headmap.tracing import NO_TRACER, Tracer


def create_worker(settings: Settings, observe: Observe = unobserved, tracer: Tracer = NO_TRACER) -> Celery:
    """The Celery application of a scoring worker; torch is imported with the first shard, in the child."""
    return create_celery(settings, WorkerScorer, observe, tracer)
