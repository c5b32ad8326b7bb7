"""The status of every replica of every service in one document: its readiness and its metrics."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from typing import Literal
from urllib.parse import urlsplit

import httpx
from fastapi import APIRouter
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, SecretStr

from headmap.errors import Unauthorized
from services.dashboard.sessions import bearer
from services.dashboard.state import Key, State

router = APIRouter(prefix="/dashboard")

_SECONDS = 3.0

Level = Literal["ok", "degraded", "unavailable"]


class CheckBody(BaseModel):
    name: str
    status: Level
    detail: str


class ModelLoad(BaseModel):
    """One model on one replica. Bytes are of KV memory; totals count from the replica's start."""

    model: str
    running: int = 0
    waiting: int = 0
    reserved_bytes: int = 0
    capacity_bytes: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    failed: int = 0
    kept_bytes: int = 0
    full_bytes: int = 0
    first_token_seconds: float = 0.0
    first_tokens: int = 0


class Replica(BaseModel):
    """`metrics` tells whether the figures could be read; `jobs` counts scoring jobs by state where it knows them."""

    service: str
    address: str
    status: Level
    detail: str = ""
    checks: list[CheckBody] = []
    metrics: bool = False
    models: list[ModelLoad] = []
    jobs: dict[str, int] | None = None


class StatusBody(BaseModel):
    replicas: list[Replica]


@router.get("/status")
async def status(state: State, key: Key) -> StatusBody:
    """Raises Unauthorized if metrics need a key that this session does not have."""
    found = await asyncio.gather(*(_replicas(state.client, url, key) for url in state.addresses.services))
    return StatusBody(replicas=[replica for replicas in found for replica in replicas])


async def _replicas(client: httpx.AsyncClient, url: str, key: SecretStr | None) -> list[Replica]:
    """One replica for each address of the URL's host."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [Replica(service=host, address=url, status="unavailable", detail="no replica of this name runs")]
    addresses = sorted({str(info[4][0]) for info in infos})
    if len(addresses) == 1 or parts.scheme == "https":
        return [await _look(client, host, url, key)]
    replicas = [f"http://{f'[{one}]' if ':' in one else one}:{port}" for one in addresses]
    return list(await asyncio.gather(*(_look(client, host, one, key) for one in replicas)))


async def _look(client: httpx.AsyncClient, service: str, url: str, key: SecretStr | None) -> Replica:
    address = urlsplit(url).netloc
    try:
        health = await client.get(f"{url}/health/ready", timeout=_SECONDS)
        document = health.json()
        replica = Replica(
            service=document["service"],
            address=address,
            status=document["status"],
            checks=[CheckBody(name=name, **check) for name, check in document["checks"].items()],
        )
    except httpx.HTTPError:
        return Replica(service=service, address=address, status="unavailable", detail="it does not answer")
    except (ValueError, KeyError, TypeError):
        return Replica(service=service, address=address, status="unavailable", detail="its answer cannot be read")
    try:
        metrics = await client.get(f"{url}/metrics", headers=bearer(key), timeout=_SECONDS)
    except httpx.HTTPError:
        return replica
    if metrics.status_code == 401:
        raise Unauthorized("the status of the services needs an API key")
    if not metrics.is_success:
        return replica
    models, jobs = read_metrics(metrics.text)
    return replica.model_copy(update={"metrics": True, "models": models, "jobs": jobs})


_FIELDS = {
    "headmap_num_requests_running": "running",
    "headmap_num_requests_waiting": "waiting",
    "headmap_kv_cache_held_bytes": "reserved_bytes",
    "headmap_kv_cache_capacity_bytes": "capacity_bytes",
    "headmap_prompt_tokens_total": "prompt_tokens",
    "headmap_generation_tokens_total": "generated_tokens",
    "headmap_request_success_total": "finished",
    "headmap_request_failure_total": "failed",
    "headmap_kv_kept_bytes_total": "kept_bytes",
    "headmap_kv_full_bytes_total": "full_bytes",
    "headmap_time_to_first_token_seconds_sum": "first_token_seconds",
    "headmap_time_to_first_token_seconds_count": "first_tokens",
}


def read_metrics(text: str) -> tuple[list[ModelLoad], dict[str, int] | None]:
    """The load of each model and the jobs by state, from Prometheus' text; None if the text has no jobs.

    Series that differ in further labels (method, code) are added up.
    """
    loads: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    jobs: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _FIELDS and "model_name" in sample.labels:
                loads[sample.labels["model_name"]][_FIELDS[sample.name]] += sample.value
            elif sample.name == "headmap_jobs":
                jobs[sample.labels["state"]] = int(sample.value)
    models = [ModelLoad.model_validate({"model": name, **values}) for name, values in sorted(loads.items())]
    return models, jobs or None
