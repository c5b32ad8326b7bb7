"""What is served: GET /info, /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

import headmap
from headmap.kvcache.methods import METHODS
from services.inference.http.deps import InferenceState, State
from services.inference.http.schemas.models import InfoBody, MapBody, ModelBody, ModelList
from services.inference.requests import ServedModel

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="The models that are served")
async def models(state: State) -> ModelList:
    return ModelList(data=[_body(state, served) for served in state.serving.models.values()])


@router.get("/v1/models/{model_id:path}", summary="One of them", responses={404: {"description": "No such model"}})
async def model(model_id: Annotated[str, Path(description="as /v1/models lists it")], state: State) -> ModelBody:
    return _body(state, state.serving.model(model_id))


@router.get("/info", summary="The server, as text-generation-inference tells it")
async def info(state: State) -> InfoBody:
    serving = state.serving
    served = serving.model(None)
    return InfoBody(
        model_id=served.info.name,
        model_sha=served.info.revision,
        model_dtype=served.opened.dtype,
        model_device_type=served.opened.device,
        max_concurrent_requests=serving.settings.max_running + serving.settings.max_waiting,
        max_input_tokens=serving.context(served) - 1,
        max_total_tokens=served.info.max_positions,
        validation_workers=serving.settings.prepare_workers,
        version=headmap.__version__,
        kv_methods=list(METHODS),
        models=[_body(state, one) for one in serving.models.values()],
    )


def _body(state: InferenceState, served: ServedModel) -> ModelBody:
    found = served.maps.default
    return ModelBody(
        id=served.info.name,
        created=state.serving.started_at,
        revision=served.info.revision,
        architecture=served.info.architecture,
        max_model_len=served.info.max_positions,
        num_layers=served.info.num_layers,
        num_heads=served.info.num_heads,
        num_kv_heads=served.info.num_kv_heads,
        map=None if found is None else MapBody(id=found.id, version=found.version, match=found.match),
        default_kv=state.serving.default_kv(),
    )
