"""The scoring API. It imports no torch: workers score, this process writes rows and reads maps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from sqlalchemy import text

import headmap
from headmap.errors import RegistryUnavailable
from headmap.http.health import Check, Checks
from headmap.http.plumbing import install, log_start
from headmap.jobs.broker import Broker
from headmap.jobs.celery_app import create_celery
from headmap.jobs.celery_broker import CeleryBroker
from headmap.registry.keys import KeyReader
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from services.scoring import (
    routes_aliases,
    routes_datasets,
    routes_evaluation_pictures,
    routes_evaluations,
    routes_jobs,
    routes_maps,
    routes_pictures,
    routes_policies,
    routes_scores,
)
from services.scoring.deps import ScoringState
from services.scoring.metrics import JobCollector

ROUTES = (
    routes_jobs,
    routes_maps,
    routes_scores,
    routes_aliases,
    routes_policies,
    routes_evaluations,
    routes_pictures,
    routes_evaluation_pictures,
    routes_datasets,
)
"""The modules with the routes, which use `app.state.scoring`. The app includes each of them directly, because FastAPI
would prepare every route twice if one router held them all.
"""


def create_app(settings: Settings, *, broker: Broker | None = None) -> FastAPI:
    """The scoring service by itself. `broker` stands in for Celery's in tests.

    The registry must be migrated (`headmap.registry.migrations.migrate`); until it is, calls answer 503.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log_start(settings, "scoring")
        yield
        app.state.scoring.close()

    app = FastAPI(
        title="Headmap scoring",
        version=headmap.__version__,
        description="Profile a model's visual heads and keep the maps.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    metrics = install(
        app, settings, service="scoring", checks=checks, stored_keys=KeyReader(lambda: app.state.scoring.database)
    )
    state = mount(app, settings, broker=broker)
    metrics.registry.register(JobCollector(state.database))
    return app


def mount(app: FastAPI, settings: Settings, *, broker: Broker | None = None) -> ScoringState:
    """Put the scoring routes on `app`, beside others'. The caller closes the state it returns when the app ends."""
    state = ScoringState(settings, open_database(settings), broker or CeleryBroker(create_celery(settings)))
    app.state.scoring = state
    for module in ROUTES:
        app.include_router(module.router)
    return state


def checks(request: Request) -> Checks:
    """Readiness: the registry answers and has its tables. A broker away delays jobs, and the sweeper catches up."""
    state: ScoringState = request.app.state.scoring
    return {"registry": lambda: check_registry(state.database)}


def check_registry(database: Database) -> Check:
    try:
        with database.read() as session:
            session.execute(text("SELECT 1 FROM maps WHERE 1 = 0"))
    except RegistryUnavailable as error:
        return Check("unavailable", error.detail)
    return Check("ok")
