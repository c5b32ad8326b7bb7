from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.settings import DEMO_MODEL, Settings
from services.dashboard.app import create_app
from services.dashboard.state import Addresses
from services.dashboard.status import read_metrics
from tests.services.dashboard.conftest import OURS

HEALTH = {"status": "ok", "service": "inference", "checks": {"maps": {"status": "ok", "detail": ""}}}


def test_the_scoring_service_tells_its_jobs_to_who_has_the_key(known: TestClient) -> None:
    (replica,) = known.get("/dashboard/status").json()["replicas"]
    assert (replica["service"], replica["status"], replica["metrics"]) == ("scoring", "ok", True)
    assert replica["checks"] == [{"name": "registry", "status": "ok", "detail": ""}]
    assert set(replica["jobs"]) == {"queued", "running", "succeeded", "failed", "cancelled"}


def test_without_the_key_it_is_asked_for(client: TestClient) -> None:
    response = client.get("/dashboard/status")
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")


def test_metrics_of_a_real_inference_service_become_its_load(app_metrics: str) -> None:
    (load,), jobs = read_metrics(app_metrics)
    # The refused one is no failure of ours.
    assert (load.model, load.finished, load.failed, load.generated_tokens) == (DEMO_MODEL, 2, 0, 10)
    assert load.capacity_bytes > 0
    assert 0 < load.kept_bytes < load.full_bytes
    assert load.first_tokens == 2
    assert jobs is None


@pytest.fixture
def app_metrics(tmp_path: Path) -> str:
    from headmap.registry.migrations import migrate
    from services.inference.http.app import create_app as create_inference
    from tests.services.inference.conftest import png
    from tests.services.inference.fakes import FakeModels

    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    with TestClient(create_inference(settings, open_model=FakeModels())) as inference:
        picture = base64.b64encode(png()).decode()
        for kv in ({"method": "full"}, {"method": "snapkv", "ratio": 0.5}, {"method": "h2o"}):
            inference.post("/generate", json={"inputs": "What?", "images": [picture], "parameters": {"kv": kv}})
        return inference.get("/metrics").text


def look(handler: object, *services: str) -> list[dict[str, object]]:
    app: FastAPI = create_app(Settings(), Addresses(services[0], services), transport=httpx.MockTransport(handler))  # type: ignore[arg-type]
    with TestClient(app, headers=OURS) as client:
        replicas: list[dict[str, object]] = client.get("/dashboard/status").json()["replicas"]
        return replicas


def test_a_service_that_is_away_stands_beside_one_that_answers() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.port == 2:
            raise httpx.ConnectError("refused")
        if request.url.path == "/metrics":
            return httpx.Response(500)
        return httpx.Response(200, json=HEALTH)

    here, away = look(answer, "http://127.0.0.1:1", "http://127.0.0.1:2")
    assert (here["status"], here["metrics"]) == ("ok", False)
    assert (away["status"], away["detail"], away["address"]) == ("unavailable", "it does not answer", "127.0.0.1:2")


def test_a_host_without_a_name_and_an_answer_that_is_none_are_told() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>")

    odd, nowhere = look(answer, "http://127.0.0.1:1", "http://no-such-host.invalid:1")
    assert (odd["status"], odd["detail"]) == ("unavailable", "its answer cannot be read")
    assert (nowhere["service"], nowhere["detail"]) == ("no-such-host.invalid", "no replica of this name runs")
