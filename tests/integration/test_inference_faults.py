"""The inference service as a process, with the bundled model, while what it leans on goes away and comes back."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from headmap.head_scores import HeadScores
from headmap.models import find_model
from headmap.registry.maps import Provenance, add_map
from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.settings import DEMO_MODEL, Settings
from tests.integration.processes import ROOT, Inference, wait_for
from tests.integration.servers import Postgres

PICTURE = base64.b64encode((ROOT / "shared/headmap/demo/samples/0000.png").read_bytes()).decode()

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture
def replica(settings: Settings) -> Iterator[Inference]:
    migrate(settings)
    # open: otherwise nobody gets in before the registry has told once whether there are keys
    ours = {"map_refresh_seconds": 0.2, "drain_seconds": 120, "kv_memory_bytes": 2**28, "access": "open"}
    started = Inference(settings.model_copy(update=ours))
    yield started
    started.end()


def file_map(database: Database, settings: Settings) -> str:
    info = find_model(DEMO_MODEL, settings)
    scores = HeadScores(
        np.arange(1.0, 1 + info.num_layers * info.num_heads).reshape(info.num_layers, -1), info.num_kv_heads
    )
    provenance = Provenance(model=DEMO_MODEL, revision=info.revision, architecture=None, dataset="test")
    with database.write() as session:
        return add_map(session, provenance, scores, promote=True, by=None)


def ask(url: str, **parameters: Any) -> httpx.Response:
    body = {"inputs": "What is it?", "images": [PICTURE], "parameters": {"max_new_tokens": 4, **parameters}}
    return httpx.post(f"{url}/generate", json=body, timeout=120, trust_env=False)


def map_served(url: str) -> str | None:
    found: str | None = ask(url, kv={"ratio": 0.5}).raise_for_status().json()["details"]["kv"]["map_id"]
    return found


def ready(url: str) -> tuple[int, str]:
    try:
        answer = httpx.get(f"{url}/health/ready", timeout=30, trust_env=False)
    except httpx.TransportError:
        return 0, "away"
    return answer.status_code, answer.json()["status"]


class Stream(threading.Thread):
    """Reads a long stream; `events` are its events so far, `cut` whether it ended without its last chunk."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self.events: list[dict[str, Any]] = []
        self.cut = False
        self._url, self._tokens = url, tokens

    def run(self) -> None:
        parameters = {"max_new_tokens": self._tokens, "ignore_eos": True}
        body = {"inputs": "What is it?", "images": [PICTURE], "stream": True, "parameters": parameters}
        try:
            with httpx.stream("POST", f"{self._url}/generate", json=body, timeout=120, trust_env=False) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        self.events.append(json.loads(line.removeprefix("data:")))
        except httpx.TransportError:
            self.cut = True


def test_with_the_registry_away_it_serves_on_degraded_and_refreshes_when_it_is_back(
    replica: Inference, settings: Settings, postgres: Postgres
) -> None:
    database = open_database(settings)
    first = file_map(database, settings)
    wait_for(lambda: ready(replica.url) == (200, "ok"), "it is ready", seconds=120)
    wait_for(lambda: map_served(replica.url) == first, "the map is served")
    postgres.stop()
    try:
        wait_for(lambda: ready(replica.url) == (200, "degraded"), "it says so")
        assert map_served(replica.url) == first
        assert ask(replica.url).status_code == 200
    finally:
        postgres.start()
    wait_for(lambda: ready(replica.url) == (200, "ok"), "it is whole again")
    second = file_map(database, settings)
    wait_for(lambda: map_served(replica.url) == second, "the newer map is served")
    database.close()


def test_started_without_a_registry_it_serves_degraded_and_finds_its_map_later(
    replica: Inference, settings: Settings, postgres: Postgres
) -> None:
    """On SIGTERM its running stream ends whole, nothing else gets in, and it ends with 0."""
    postgres.stop()
    try:
        wait_for(lambda: ready(replica.url) == (200, "degraded"), "it is up", seconds=120)
        assert ask(replica.url).status_code == 200
    finally:
        postgres.start()
    database = open_database(settings)
    filed = file_map(database, settings)
    database.close()
    wait_for(lambda: map_served(replica.url) == filed, "the map is served")

    stream = Stream(replica.url, tokens=400)
    stream.start()
    wait_for(lambda: len(stream.events) > 5, "the stream runs", seconds=60)
    replica.signal(signal.SIGTERM)
    wait_for(lambda: _refuses(replica.url), "it takes no more")
    stream.join(120)
    assert not stream.cut
    assert stream.events[-1]["details"]["generated_tokens"] == 400
    wait_for(lambda: replica.code is not None, "it ends", seconds=60)
    assert replica.code == 0


def _refuses(url: str) -> bool:
    try:
        return ask(url).status_code == 503
    except httpx.TransportError:
        return True
