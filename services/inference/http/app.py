"""The inference service by itself, and the pieces that the one-port application mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request

import headmap
from headmap.http.health import Check, Checks
from headmap.http.metrics import Metrics
from headmap.http.plumbing import install, log_start
from headmap.registry.keys import KeyReader
from headmap.registry.session import open_database
from headmap.settings import Settings
from services.inference.http.response_store import ResponseStore
from services.inference.http.routes import chat, completions, generate, models, responses, server, tokens
from services.inference.intake.fetching import ImageFetcher
from services.inference.metric_aliases import ALIASES
from services.inference.metrics import EngineCollector, InferenceMetrics
from services.inference.served_model import OpenModel, ServedModel, Stats, open_model
from services.inference.serving import Serving

ROUTES = (generate, chat, completions, responses, models, tokens, server)
"""The modules with the routes, which use `app.state.inference`. The app includes each of them directly, because FastAPI
would prepare every route twice if one router held them all.
"""


def create_app(
    settings: Settings, *, open_model: OpenModel = open_model, fetcher: ImageFetcher | None = None
) -> FastAPI:
    """The inference service. It loads its models when it starts, and starts only once they are loaded.

    `open_model` and `fetcher` replace models and the network in tests.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log_start(settings, "inference")
        async with running(serving):
            yield

    app = FastAPI(
        title="Headmap inference",
        version=headmap.__version__,
        description="Answer questions about pictures, with a KV cache sized head by head.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    metrics = install(
        app,
        settings,
        service="inference",
        checks=checks,
        stored_keys=KeyReader(lambda: app.state.inference.database),
    )
    serving = mount(app, settings, metrics, open_model=open_model, fetcher=fetcher)
    return app


def mount(
    app: FastAPI,
    settings: Settings,
    metrics: Metrics,
    *,
    open_model: OpenModel = open_model,
    fetcher: ImageFetcher | None = None,
) -> Serving:
    """Add the inference routes to `app`. The caller runs its lifespan inside `running(serving)`."""
    fetcher = fetcher or ImageFetcher(settings)
    serving = Serving(
        settings, open_database(settings, connections=2), open_model, fetcher, InferenceMetrics(metrics.registry)
    )
    metrics.registry.register(EngineCollector(partial(_stats, serving)))
    for name in settings.metrics_aliases:
        metrics.alias(ALIASES[name])
    app.state.inference = serving
    app.state.responses = ResponseStore(settings.response_memory_bytes)
    app.state.give_up, app.state.failure = serving.give_up, serving.failure
    for module in ROUTES:
        app.include_router(module.router)
    return serving


@asynccontextmanager
async def running(serving: Serving) -> AsyncIterator[None]:
    """Inside it, models are loaded and engines run. Leaving it drains them."""
    try:
        await serving.start()
        yield
    finally:
        await serving.stop()


def checks(request: Request) -> Checks:
    """Readiness: engines run. Without the registry the service is degraded: loaded models keep serving."""
    serving: Serving = request.app.state.inference
    served = serving.models.values()
    return {f"model {one.info.name}": partial(check_model, one) for one in served} | {
        "maps": partial(check_maps, list(served))
    }


def check_model(served: ServedModel) -> Check:
    if not served.opened.engine.stats().alive:
        return Check("unavailable", "its engine has ended; this process ends, to be started again")
    found = served.maps.default
    return Check("ok", f"map {found.id}, version {found.version}" if found else "no map yet")


def check_maps(served: list[ServedModel]) -> Check:
    away = next((one.maps.away for one in served if one.maps.away), None)
    return Check("ok") if away is None else Check("degraded", f"serving with the maps that are loaded; {away}")


def _stats(serving: Serving) -> dict[str, Stats]:
    return {name: served.opened.engine.stats() for name, served in serving.models.items()}
