from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from headmap.settings import DEMO_MODEL, Settings
from services.embedded.app import create_app
from tests.services.inference.fakes import FakeModels
from tests.shared.jobs.fakes import CountingBroker


@pytest.fixture
def settings(tmp_path: Path, migrated: Callable[[Settings], None]) -> Settings:
    settings = Settings(data_dir=tmp_path, map_refresh_seconds=0.05)
    migrated(settings)
    return settings


def test_one_document_and_one_port_cover_both_services(settings: Settings) -> None:
    with TestClient(create_app(settings, open_model=FakeModels(), broker=CountingBroker())) as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/score", "/maps", "/generate", "/v1/chat/completions", "/info", "/metrics", "/health"} <= set(paths)
        assert client.post("/score", json={"model": DEMO_MODEL, "pages": 1}).status_code == 202
        assert client.get("/v1/models").json()["data"][0]["id"] == DEMO_MODEL
        metrics = client.get("/metrics").text
        assert "headmap_jobs{" in metrics
        assert "headmap_num_requests_running{" in metrics
        assert client.get("/docs").status_code == 200


def test_a_registry_away_degrades_and_does_not_stop(settings: Settings) -> None:
    app = create_app(settings, open_model=FakeModels(), broker=CountingBroker())
    with TestClient(app) as client:
        assert client.get("/health").json()["status"] == "ok"
        with app.state.scoring.database.write() as session:
            session.execute(text("ALTER TABLE maps RENAME TO away"))
        response = client.get("/health")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert client.get("/maps").status_code == 503
