"""What routes depend on, as type aliases; and the state of the inference part of an application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.inference.metrics import InferenceMetrics
from services.inference.serving import Serving


@dataclass(frozen=True)
class InferenceState:
    """Lives on `app.state.inference`."""

    serving: Serving
    metrics: InferenceMetrics


def inference_state(request: Request) -> InferenceState:
    state: InferenceState = request.app.state.inference
    return state


State = Annotated[InferenceState, Depends(inference_state)]
