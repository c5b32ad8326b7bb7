"""Scoring, inference and the dashboard in one application: one port, one /docs, one /metrics, one /health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from fastapi import FastAPI, Request

import headmap
from headmap.http.health import Check, Checks
from headmap.http.middleware import SlashMiddleware
from headmap.http.plumbing import install, log_start
from headmap.jobs.broker import Broker
from headmap.registry.keys import KeyReader
from headmap.settings import Settings
from services.dashboard.app import DashboardMiddleware
from services.dashboard.app import create_app as create_dashboard
from services.dashboard.state import Addresses
from services.embedded.metrics_folder import metrics_folder
from services.inference.http import app as inference
from services.inference.intake.fetching import ImageFetcher
from services.inference.served_model import OpenModel, open_model
from services.scoring import app as scoring
from services.scoring.metrics import JobCollector
from services.scoring.worker_metrics import collect_counts


def create_app(
    settings: Settings,
    *,
    open_model: OpenModel = open_model,
    fetcher: ImageFetcher | None = None,
    broker: Broker | None = None,
    url: str | None = None,
) -> FastAPI:
    """Both services, and the dashboard if `url` gives their address.

    The registry must be migrated. `open_model`, `fetcher` and `broker` replace the real ones in tests.
    """
    dashboard = None if url is None else create_dashboard(settings, Addresses(url, (url,)))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log_start(settings, "headmap")
        try:
            async with inference.running(serving):
                yield
        finally:
            scoring_state.close()
            if dashboard is not None:
                await dashboard.state.dashboard.close()

    app = FastAPI(
        title="Headmap",
        version=headmap.__version__,
        description="Profile a model's visual heads, and serve it with a KV cache sized head by head.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    metrics = install(
        app, settings, service="headmap", checks=checks, stored_keys=KeyReader(lambda: app.state.scoring.database)
    )
    scoring_state = scoring.mount(app, settings, broker=broker)
    metrics.registry.register(JobCollector(scoring_state.database))
    counted = metrics_folder(settings)
    counted.mkdir(parents=True, exist_ok=True)
    collect_counts(metrics.registry, counted)  # the worker's
    serving = inference.mount(app, settings, metrics, open_model=open_model, fetcher=fetcher)
    if dashboard is not None:
        app.add_middleware(DashboardMiddleware, dashboard=dashboard)
        app.add_middleware(SlashMiddleware)  # again, before paths are told apart
    return app


def checks(request: Request) -> Checks:
    """Readiness of both. Without the registry, scoring stops and serving goes on, so the cluster is degraded."""
    database = request.app.state.scoring.database

    def registry() -> Check:
        found = scoring.check_registry(database)
        return replace(found, status="degraded") if found.status == "unavailable" else found

    return {**inference.checks(request), "registry": registry}
