"""The dashboard by itself, and the piece that the one-port application mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

import headmap
from headmap.http.health import Checks
from headmap.http.plumbing import install
from headmap.settings import Settings
from services.dashboard import relay, routes_session, samples, status
from services.dashboard.door import Door
from services.dashboard.guide import mount_guide
from services.dashboard.pages import PAGES, mount_pages
from services.dashboard.sessions import Sessions
from services.dashboard.state import Addresses, DashboardState

_SESSION_BYTES = 1 << 14
_PATHS = frozenset(page.path for page in PAGES)


def create_app(
    settings: Settings, addresses: Addresses, *, transport: httpx.AsyncBaseTransport | None = None
) -> FastAPI:
    """The dashboard for the services at `addresses`. `transport` stands in for the network in tests.

    The pages are open: the services ask for a key, and the calls that the pages make carry the user's.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.dashboard.close()

    app = FastAPI(
        title="Headmap dashboard",
        version=headmap.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    pages = settings.model_copy(update={"access": "open", "cors_origins": ()})
    small = {"/dashboard/session": _SESSION_BYTES}
    install(app, pages, service="dashboard", checks=_no_checks, stored_keys=tuple, body_limits=small)
    client = httpx.AsyncClient(transport=transport, trust_env=False, limits=httpx.Limits(max_connections=None))
    app.state.dashboard = DashboardState(
        addresses, client, Sessions(settings.dashboard_secret), Door(client, addresses.api)
    )
    for module in (relay, routes_session, samples, status):
        app.include_router(module.router)
    mount_pages(app, guide=settings.guide_dir is not None)
    if settings.guide_dir is not None:
        mount_guide(app, settings.guide_dir)
    return app


class DashboardMiddleware:
    """Lets `dashboard` answer `/`, `/docs` and all paths under /dashboard and /guide, before anything asks for a key.

    A POST to `/` is a generation.
    """

    def __init__(self, app: ASGIApp, dashboard: FastAPI) -> None:
        self._app, self._dashboard = app, dashboard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and (
            (scope["path"] in _PATHS and scope["method"] in ("GET", "HEAD"))
            or scope["path"].startswith(("/dashboard/", "/guide"))
        )
        await (self._dashboard if ours else self._app)(scope, receive, send)


def _no_checks(request: Request) -> Checks:
    """It is ready when it answers; it shows a service that is away."""
    del request
    return {}
