"""Calls of a cluster besides its registry: jobs, generations, models, health. Each raises what `Client` does."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from headmap.errors import ClusterUnavailable, NotFound, TooManyRequests, Unavailable
from headmap.evaluation.answers import AnswerRow, read_lines
from services.cli.remote.client import Client
from services.inference.http.schemas.models import ModelBody
from services.inference.http.schemas.tgi import GenerateResponse, StreamEvent
from services.scoring.evaluation_bodies import EvaluationBody
from services.scoring.schemas import JobBody

AnyJob = TypeVar("AnyJob", JobBody, EvaluationBody)
_PATHS: dict[type[object], str] = {JobBody: "/score", EvaluationBody: "/evaluations"}

_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 1.0
_OWN = (("scoring", "/scoring"), ("inference", "/inference"))
"""Services behind the gateway, and where each one answers for itself."""


def start_job(client: Client, wish: dict[str, Any], kind: type[AnyJob]) -> AnyJob:
    """Start the job of this kind for the body of its POST, or find the one of an equal request."""
    return client.read(kind, client.call("POST", _PATHS[kind], body=wish))


def cancel_job(client: Client, job: AnyJob) -> None:
    client.call("DELETE", f"{_PATHS[type(job)]}/{job.id}")


def follow_job(client: Client, job: AnyJob, pause: Callable[[float], None] = time.sleep) -> Iterator[AnyJob]:
    """`job`, and again after each change, to its end. A cluster that goes away is waited for, two minutes at a time."""
    heard = time.monotonic()
    yield job
    while not job.state.ended:
        try:
            for event in client.events("GET", f"{_PATHS[type(job)]}/{job.id}/events"):
                job, heard = client.parse(type(job), event), time.monotonic()
                yield job
        except (Unavailable, TooManyRequests):
            if time.monotonic() - heard > _PATIENCE_SECONDS:
                raise
        if not job.state.ended:
            pause(_PAUSE_SECONDS)


def answers(client: Client, evaluation_id: str) -> list[AnswerRow]:
    """All answers of an evaluation that has succeeded, question by question."""
    return list(read_lines(client.call("GET", f"/evaluations/{evaluation_id}/answers").content))


def generate(
    client: Client, body: dict[str, Any], pictures: Sequence[Path], say: Callable[[str], None]
) -> GenerateResponse:
    """Ask about pictures, which go along. `say` gets the answer piece by piece. Raises ModelNotFound, too."""
    client.call("GET", f"/v1/models/{quote(body['model'])}")  # /generate takes any name where one model is served
    images = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    said = ""
    for event in client.events("POST", "/generate_stream", body={**body, "images": images}):
        told = client.parse(StreamEvent, event)
        if told.generated_text is not None:
            say(told.generated_text.removeprefix(said))
            return client.parse(GenerateResponse, event)
        said += told.token.text
        say(told.token.text)
    raise ClusterUnavailable(f"{client.url}: the answer broke off")


def served_models(client: Client) -> list[ModelBody]:
    """The models that are served, without their policies."""
    listed = client.json(client.call("GET", "/v1/models"))
    return [one for one in client.parse(list[ModelBody], listed.get("data")) if one.parent is None]


@dataclass(frozen=True)
class Check:
    status: str
    detail: str


@dataclass(frozen=True)
class ServiceHealth:
    """`status`: ok, degraded or unavailable. `version`: None where the service did not tell."""

    service: str
    status: str
    version: str | None
    checks: dict[str, Check]


def health(client: Client) -> list[ServiceHealth]:
    """The whole first, then each service that answers for itself behind the gateway."""
    found = [_health(client, "", "/version", lambda told: told["version"])]
    for service, prefix in _OWN:
        try:
            told = _health(client, prefix, f"{prefix}/openapi.json", lambda document: document["info"]["version"])
        except NotFound:  # one process does it all
            continue
        except Unavailable as error:
            told = ServiceHealth(service, "unavailable", None, {"answers": Check("unavailable", error.detail)})
        found.append(told)
    return found


def _health(client: Client, prefix: str, version_at: str, version: Callable[[Any], str]) -> ServiceHealth:
    told = client.json(client.call("GET", f"{prefix}/health/ready", also=503))
    try:
        known = version(client.json(client.call("GET", version_at)))
    except (Unavailable, NotFound):
        known = None
    return client.parse(ServiceHealth, {**told, "version": known})
