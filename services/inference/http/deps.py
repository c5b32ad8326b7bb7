"""What routes depend on, as type aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.inference.serving import Serving


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.inference
    return serving


TheServing = Annotated[Serving, Depends(_serving)]
