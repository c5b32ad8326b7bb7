"""Keys, health, metrics, request ids, unknown routes and a registry that goes away."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import delete

from headmap.http.logs import JsonFormatter
from headmap.registry.session import Database
from headmap.registry.tables import Job
from headmap.settings import DEMO_MODEL, Settings
from headmap.settings_groups.key import SettingsKey
from services.scoring.app import create_app
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish
from tests.shared.datasets.archives import as_zip, files
from tests.shared.jobs.fakes import CountingBroker


@pytest.fixture
def locked(settings: Settings, migrated: Callable[[Settings], None]) -> TestClient:
    migrated(settings)
    keys = (SettingsKey("first-key"), SettingsKey("clé"))
    return TestClient(create_app(settings.model_copy(update={"api_keys": keys}), broker=CountingBroker()))


def test_health_is_open_and_says_what_it_looked_at(locked: TestClient) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        response = locked.get(path)
        assert response.status_code == 200
        assert (response.json()["status"], response.json()["service"]) == ("ok", "scoring")


def test_everything_else_needs_a_key(locked: TestClient) -> None:
    for path in ("/maps", "/metrics", "/openapi.json", "/docs", "/nowhere"):
        for header in (None, "", "first-key", "Basic first-key", "Bearer", "Bearer wrong", "Bearer first-ke"):
            response = locked.get(path, headers={} if header is None else {"Authorization": header})
            assert_problem(response, 401, "unauthorized", "Bearer")
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [b"Bearer first-key", b"bearer first-key"])
def test_a_key_lets_in(locked: TestClient, key: bytes) -> None:
    assert locked.get("/maps", headers={"Authorization": key}).status_code == 200
    document = locked.get("/openapi.json", headers={"Authorization": key}).json()
    assert document["paths"]["/maps"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]


@pytest.mark.parametrize(
    ("keys", "said"), [((), "open while there are no API keys"), ((SettingsKey("k"),), "calls need a key: one of 1 in")]
)
def test_the_start_up_log_says_whether_calls_need_a_key(
    settings: Settings,
    migrated: Callable[[Settings], None],
    caplog: pytest.LogCaptureFixture,
    keys: tuple[SettingsKey, ...],
    said: str,
) -> None:
    migrated(settings)
    app = create_app(settings.model_copy(update={"api_keys": keys}), broker=CountingBroker())
    with caplog.at_level(logging.INFO), TestClient(app):
        pass
    assert said in caplog.text


def test_a_registry_that_is_away_answers_503_and_health_says_so(tmp_path: Path) -> None:
    url = "postgresql://nobody:secret@127.0.0.1:1/none"
    settings = Settings(data_dir=tmp_path, database_url=url, access="open")
    client = TestClient(create_app(settings, broker=CountingBroker()), raise_server_exceptions=False)
    response = client.get("/maps")
    assert_problem(response, 503, "registry_unavailable")
    assert response.headers["retry-after"] == "1"
    assert "secret" not in response.text
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["checks"]["registry"]["status"] == "unavailable"
    assert "secret" not in ready.text
    assert client.get("/health/live").status_code == 200
    assert "headmap_registry_up 0.0" in client.get("/metrics").text


def test_metrics_count_requests_by_route_and_jobs_by_state(client: TestClient) -> None:
    client.get("/maps/none")
    client.get("/nowhere/else")
    text = client.get("/metrics").text
    assert 'headmap_http_requests_total{method="GET",route="/maps/{map_id}",status="404"} 1.0' in text
    assert 'route="unmatched"' in text
    assert "/nowhere" not in text
    assert 'headmap_jobs{state="queued"} 0.0' in text


def test_every_replica_counts_all_ended_jobs_also_those_removed_since(
    client: TestClient, settings: Settings, database: Database, start: Callable[..., dict[str, Any]]
) -> None:
    def ended(one: TestClient) -> dict[str, float]:
        found = re.findall(r'headmap_jobs_ended_total{state="(.*)"} (.*)', one.get("/metrics").text)
        return {state: float(count) for state, count in found}

    assert ended(client) == {"succeeded": 0, "failed": 0, "cancelled": 0}
    client.delete(f"/score/{start()['id']}")
    for _ in range(2):
        finish(database, start(force=True)["id"])
    with database.write() as session:
        session.execute(delete(Job).where(Job.state == "cancelled"))
    for replica in (client, TestClient(create_app(settings, broker=CountingBroker()))):
        assert ended(replica) == {"succeeded": 2, "failed": 0, "cancelled": 1}


def test_unknown_routes_and_methods(client: TestClient) -> None:
    assert_problem(client.get("/nowhere"), 404, "not_found", "/nowhere")
    assert_problem(client.put("/score"), 405, "method_not_allowed", "PUT")
    assert client.put("/score").headers["allow"] == "GET, HEAD, POST"
    assert client.post("/score/x").headers["allow"] == "DELETE, GET, HEAD"


def test_errors_under_v1_take_the_shape_openai_clients_know(client: TestClient) -> None:
    response = client.get("/v1/nothing")
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "not_found"


def test_a_request_keeps_its_id_and_gets_one_when_it_has_no_plain_one(client: TestClient) -> None:
    assert client.get("/health", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = client.get("/health", headers={"X-Request-ID": "a b\t<script>"}).headers["x-request-id"]
    assert len(made) == 32


def test_an_error_of_ours_shows_its_request_and_nothing_else(app: FastAPI) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret of the inside")

    response = TestClient(app, raise_server_exceptions=False).get("/broken", headers={"X-Request-ID": "r-7"})
    assert_problem(response, 500, "internal_error", "r-7")
    assert "secret" not in response.text


def test_logs_are_one_json_object_a_line() -> None:
    record = logging.makeLogRecord(
        {"msg": "shard %d", "args": (3,), "levelname": "INFO", "job_id": "j", "odd": object()}
    )
    entry = json.loads(JsonFormatter("scoring").format(record))
    assert (entry["message"], entry["service"], entry["job_id"]) == ("shard 3", "scoring", "j")


def test_a_data_directory_that_is_removed_under_the_server_is_told_by_every_answer(
    client: TestClient, settings: Settings
) -> None:
    scores = {"model": "m", "num_kv_heads": 1, "scores": {"0-0": 1}}
    assert client.post("/maps", json=scores).status_code == 201
    settings.data_dir.rename(settings.data_dir.with_name("elsewhere"))
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    for answer in (
        client.post("/maps", json=scores),
        client.post("/score", json={"model": DEMO_MODEL, "pages": 1}),
        client.post("/datasets?name=mine", content=as_zip(files())),
        client.get("/maps"),
    ):
        assert_problem(answer, 503, "registry_unavailable")
    settings.data_dir.with_name("elsewhere").rename(settings.data_dir)
    assert client.get("/health/ready").json()["status"] == "ok"
    assert len(client.get("/maps").json()["items"]) == 1
