"""The dependencies of routes, as type aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.inference.http.response_store import ResponseStore
from services.inference.serving import Serving


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.inference
    return serving


def _responses(request: Request) -> ResponseStore:
    kept: ResponseStore = request.app.state.responses
    return kept


TheServing = Annotated[Serving, Depends(_serving)]
TheResponses = Annotated[ResponseStore, Depends(_responses)]
