"""GET /info, /v1/models and /v1/models/{id}: the served models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

import headmap
from headmap.errors import NotFound
from headmap.kvcache.methods import METHODS
from headmap.kvcache.select import DEFAULT_SELECTOR, SELECTORS
from services.inference.http.deps import TheServing
from services.inference.http.kv_choice import choose
from services.inference.http.schemas.models import CacheBody, DecodeBody, InfoBody, MapBody, ModelBody, ModelList
from services.inference.maps import ServedMap
from services.inference.policies import ServedPolicy, told_policy
from services.inference.served_model import ServedModel
from services.inference.serving import Serving

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="The models that are served")
async def models(serving: TheServing) -> ModelList:
    """Each served model, followed by its policies."""
    data = []
    for served in serving.models.values():
        data.append(_body(serving, served))
        data += [await _policy_body(serving, served, policy) for policy in served.policies.served]
    return ModelList(data=data)


@router.get("/v1/models/{model_id:path}", summary="A served model", responses={404: {"description": "No such model"}})
async def model(model_id: Annotated[str, Path(description="name from /v1/models")], serving: TheServing) -> ModelBody:
    chosen = await choose(serving, model_id, None, None)
    if chosen.policy is not None:
        return await _policy_body(serving, chosen.served, chosen.policy)
    return _body(serving, chosen.served).model_copy(update={"id": chosen.name})


@router.post(
    "/v1/embeddings", summary="Not served", response_class=Response, responses={404: {"description": "Never served"}}
)
async def embeddings() -> Response:
    raise NotFound("embeddings are not served: the models here generate text")


@router.get("/info", summary="Describe the server, in text-generation-inference's form")
async def info(serving: TheServing) -> InfoBody:
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
        kv_selectors=list(SELECTORS),
        kv_default_selector=DEFAULT_SELECTOR,
        models=[_body(serving, one) for one in serving.models.values()],
    )


async def _policy_body(serving: Serving, served: ServedModel, policy: ServedPolicy) -> ModelBody:
    changes: dict[str, object] = {
        "id": f"{served.info.name}@{policy.name}",
        "created": int(policy.created_at.timestamp()),
        "parent": served.info.name,
        "default_kv": told_policy(policy),
    }
    if policy.map is not None:
        changes["map"] = _map(await served.maps.seen(policy.map))
    return _body(serving, served).model_copy(update=changes)


def _map(found: ServedMap | None) -> MapBody | None:
    return None if found is None else MapBody(id=found.id, version=found.version, match=found.match)


def _cache(serving: Serving, served: ServedModel) -> CacheBody:
    stats = served.opened.engine.stats()
    return CacheBody(
        memory_bytes=stats.kv_capacity_bytes,
        token_bytes=stats.kv_block_bytes // stats.kv_block_tokens,
        page_tokens=stats.kv_block_tokens,
        max_running=serving.settings.max_running,
    )


def _body(serving: Serving, served: ServedModel) -> ModelBody:
    return ModelBody(
        id=served.info.name,
        root=served.info.name,
        created=serving.started_at,
        revision=served.info.revision,
        architecture=served.info.architecture,
        max_model_len=served.info.max_positions,
        num_layers=served.info.num_layers,
        num_heads=served.info.num_heads,
        num_kv_heads=served.info.num_kv_heads,
        map=_map(served.maps.default),
        default_kv=serving.default_kv(served),
        cache=_cache(serving, served),
        decode=None if served.opened.decode is None else DecodeBody.model_validate(served.opened.decode),
    )
