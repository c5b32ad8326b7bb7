"""Add the shared plumbing to a FastAPI application, and describe it in the application's OpenAPI document."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware

from headmap.http.auth import OPEN_PATHS, AuthMiddleware, needed_scope
from headmap.http.bodies import install_reader
from headmap.http.docs import mount_docs
from headmap.http.keyring import KeyRing, StoredKeys
from headmap.http.limits import KeyLimits
from headmap.http.metrics import Metrics
from headmap.http.middleware import (
    HeadMiddleware,
    RequestMiddleware,
    SecurityHeadersMiddleware,
    SlashMiddleware,
)
from headmap.http.origins import OriginMiddleware
from headmap.http.problems import OPENAI_ERROR_SCHEMA, PROBLEM_SCHEMA, install_handlers
from headmap.http.receiving import BodyLimitMiddleware
from headmap.keys import Scope
from headmap.settings import Settings
from headmap.tracing import open_tracer

logger = logging.getLogger(__name__)

_METHODS = ("get", "post", "put", "delete", "patch")
_EXPOSED = ("Location", "Retry-After", "X-Request-ID", "X-Headmap-Ignored", "X-Headmap-KV", "X-Headmap-Tools")


@dataclass(frozen=True)
class Check:
    """The result of a readiness check. A service that is not `ready` answers 503; a degraded one still serves."""

    status: Literal["ok", "degraded", "unavailable"]
    detail: str = ""


class CheckBody(BaseModel):
    status: Literal["ok", "degraded", "unavailable"]
    detail: str


class HealthBody(BaseModel):
    status: Literal["ok", "degraded", "unavailable"]
    service: str
    checks: dict[str, CheckBody]


Checks = Mapping[str, Callable[[], Check]]
"""Name -> a blocking function that looks; it runs in a thread and must not raise."""


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
            allow_methods=[method.upper() for method in (*_METHODS, "head")],
            allow_headers=["*"],  # all that the browser asks for: clients send their own headers
            expose_headers=["*", *_EXPOSED],  # also by name, for browsers that do not know the star
        )
    app.add_middleware(SecurityHeadersMiddleware)
    app.state.tracer = open_tracer(service)
    app.add_middleware(RequestMiddleware, metrics=metrics, tracer=app.state.tracer)
    app.add_middleware(SlashMiddleware)
    app.state.metrics = metrics
    _add_routes(app, service, checks, metrics)
    if app.openapi_url is not None:
        mount_docs(app)
    documents: dict[bool, dict[str, Any]] = {}
    app.openapi = lambda: _openapi(app, keys.asks, documents)  # type: ignore[method-assign]  # FastAPI's own way
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


def _add_routes(app: FastAPI, service: str, checks: Callable[[Request], Checks], metrics: Metrics) -> None:
    @app.get("/health/live", tags=["health"], summary="The process answers")
    async def live() -> HealthBody:
        return HealthBody(status="ok", service=service, checks={})

    async def ready(request: Request) -> Response:
        found = {name: await run_in_threadpool(check) for name, check in checks(request).items()}
        worst = max((check.status for check in found.values()), key=_severity, default="ok")
        body = HealthBody(
            status=worst,
            service=service,
            checks={name: CheckBody(status=check.status, detail=check.detail) for name, check in found.items()},
        )
        return JSONResponse(body.model_dump(), 503 if worst == "unavailable" else 200)

    for path in ("/health/ready", "/health"):
        app.get(
            path,
            tags=["health"],
            summary="The service can do its work",
            response_model=HealthBody,
            responses={503: {"model": HealthBody, "description": "It cannot; the body says why"}},
        )(ready)

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def expose() -> Response:
        return Response(metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _severity(status: str) -> int:
    return ("ok", "degraded", "unavailable").index(status)


def _openapi(app: FastAPI, keys: bool, documents: dict[bool, dict[str, Any]]) -> dict[str, Any]:
    """Return FastAPI's document with our errors, and with the key if one is needed. Each form is made once."""
    if keys in documents:
        return documents[keys]
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= {"Problem": PROBLEM_SCHEMA, "OpenAIError": OPENAI_ERROR_SCHEMA}
    for path, item in document["paths"].items():
        if path in OPEN_PATHS:
            continue
        for method in set(item) & set(_METHODS):
            _describe_errors(path, item[method])
            if keys:
                _describe_key(item[method], needed_scope(method.upper(), path))
            _say_as_documents(path, item[method]["responses"])
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    documents[keys] = document
    return document


def _describe_errors(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.setdefault("503", {"description": "Registry or service unavailable"})
    if "requestBody" in operation:
        responses.setdefault("400", {"description": "The body cannot be read"})
        responses.setdefault("408", {"description": "The body arrives too slowly"})
        responses.setdefault("413", {"description": "The body is too large"})
        responses.setdefault("429", {"description": "Too many requests; Retry-After says when to come back"})
        responses.setdefault("422", {"description": "Invalid request"})
        responses.setdefault("403", {"description": "A form or plain text from another site's page"})
    if path.startswith("/v1/") and (invalid := responses.pop("422", None)) is not None:
        responses["400"] = invalid


def _describe_key(operation: dict[str, Any], needed: Scope | None) -> None:
    """The scope stands beside the key, as OpenAPI 3.1 has the roles of schemes that are no OAuth."""
    operation["security"] = [{"key": [] if needed is None else [needed.value]}]
    responses = operation["responses"]
    responses["401"] = {"description": "No valid key"}
    responses.setdefault("429", {"description": "The key is used more than it may; Retry-After says when to return"})
    if needed is not None:
        also = responses.get("403", {}).get("description")
        lacks = f"The key lacks the scope {needed.value}"
        responses["403"] = {"description": f"{lacks}. {also}" if also else lacks}


def _say_as_documents(path: str, responses: dict[str, Any]) -> None:
    openai = path.startswith("/v1/")
    name, media = ("OpenAIError", "application/json") if openai else ("Problem", "application/problem+json")
    for status, response in responses.items():
        if status.startswith(("4", "5")):
            response["description"] = response.get("description", "").replace("Validation Error", "Invalid request")
            response["content"] = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
