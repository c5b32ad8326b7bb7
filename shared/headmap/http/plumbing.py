"""Put together what every service's application has beside its routes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware

from headmap.http.auth import AuthMiddleware
from headmap.http.bodies import install_reader
from headmap.http.docs import mount_docs
from headmap.http.health import Checks, add_health_routes
from headmap.http.keyring import KeyRing, StoredKeys
from headmap.http.limits import KeyLimits
from headmap.http.metrics import Metrics
from headmap.http.middleware import (
    HeadMiddleware,
    RequestMiddleware,
    SecurityHeadersMiddleware,
    SlashMiddleware,
)
from headmap.http.openapi import METHODS, describe
from headmap.http.origins import OriginMiddleware
from headmap.http.problems import install_handlers
from headmap.http.receiving import BodyLimitMiddleware
from headmap.settings import Settings
from headmap.tracing import open_tracer

logger = logging.getLogger(__name__)

_EXPOSED = ("Location", "Retry-After", "X-Request-ID", "X-Headmap-Ignored", "X-Headmap-KV", "X-Headmap-Tools")


def install(
    app: FastAPI,
    settings: Settings,
    *,
    service: str,
    checks: Callable[[Request], Checks],
    stored_keys: StoredKeys,
    body_limits: Mapping[str, int] | None = None,
) -> Metrics:
    """Add errors, keys, limits, headers, request ids, traces, /health*, /metrics, /docs and /openapi.json to `app`.

    GET paths also accept HEAD, and trailing slashes of a path are ignored.

    Make `app` with `docs_url=None` and `redoc_url=None`. Call this once per application, before or after its routes.
    Each readiness call runs `checks`. From the first request on, `stored_keys` reads the registry's keys.
    `body_limits`: the bytes that a body may have, for paths that do not use `settings.max_body_bytes`.
    """
    metrics = Metrics()
    install_handlers(app)
    install_reader(app, settings)
    keys = KeyRing(settings, stored_keys)
    app.router.redirect_slashes = False
    # The last added is the outermost: count and name every request, check its origin, then its key, then look
    # at the body.
    app.add_middleware(HeadMiddleware)
    app.add_middleware(
        BodyLimitMiddleware,
        settings=settings,
        limits={"/datasets": settings.max_dataset_bytes, **(body_limits or {})},
        to_disk=frozenset({"/datasets"}),
    )
    app.add_middleware(AuthMiddleware, keys=keys, limits=KeyLimits(settings))
    app.add_middleware(OriginMiddleware, origins=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,  # before the key check: a browser's preflight request has no key
            allow_origins=settings.cors_origins,
            allow_methods=[method.upper() for method in (*METHODS, "head")],
            allow_headers=["*"],  # all that the browser asks for: clients send their own headers
            expose_headers=["*", *_EXPOSED],  # also by name, for browsers that do not know the star
        )
    app.add_middleware(SecurityHeadersMiddleware)
    app.state.tracer = open_tracer(service)
    app.add_middleware(RequestMiddleware, metrics=metrics, tracer=app.state.tracer)
    app.add_middleware(SlashMiddleware)
    app.state.metrics = metrics
    add_health_routes(app, service, checks, metrics)
    if app.openapi_url is not None:
        mount_docs(app)
    documents: dict[bool, dict[str, Any]] = {}
    app.openapi = lambda: describe(app, keys.asks, documents)  # type: ignore[method-assign]  # FastAPI's own way
    return metrics


def log_start(settings: Settings, service: str) -> None:
    """Log at start whether calls need a key."""
    logger.info("%s starts; %s", service, describe_access(settings))


def describe_access(settings: Settings) -> str:
    """Describe who may call, according to the settings."""
    if settings.access == "open":
        return "open: HEADMAP_ACCESS says so, anyone may call"
    if settings.api_keys:
        return f"calls need a key: one of {len(settings.api_keys)} in HEADMAP_API_KEYS, or one of `headmap keys`"
    if settings.access == "keys":
        return "calls need one of the API keys that `headmap keys` makes"
    return "open while there are no API keys (`headmap keys create NAME` makes one): anyone may call"
