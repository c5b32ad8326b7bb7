"""The worker's health check: whoever restarts workers by it must not do so while the broker is away."""

from __future__ import annotations

import socket

import pytest

from headmap.jobs.celery_app import create_celery
from services.scoring.worker import answers
from tests.integration.cluster import Cluster
from tests.integration.processes import wait_for
from tests.integration.servers import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_a_worker_answers_and_one_that_is_gone_does_not(cluster: Cluster) -> None:
    name = f"scoring@{socket.gethostname()}"
    app = create_celery(cluster.settings)
    worker = cluster.worker()
    wait_for(lambda: answers(app, name), "the worker answers")
    worker.kill()
    assert not answers(app, name)


def test_no_worker_is_to_blame_while_the_broker_is_away(cluster: Cluster) -> None:
    away = cluster.settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{free_port()}/0"})
    assert answers(create_celery(away), "scoring@anywhere")
