"""The routes by which others see whether a service lives, can work and how much it does: /health* and /metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from headmap.http.metrics import Metrics


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


def add_health_routes(app: FastAPI, service: str, checks: Callable[[Request], Checks], metrics: Metrics) -> None:
    """Add /health, /health/live, /health/ready and /metrics. Each readiness call runs `checks`."""

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
