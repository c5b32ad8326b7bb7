"""The scoring application on a SQLite registry of its own, with a broker that only counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.models import find_model
from headmap.registry.migrations import migrate
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from services.scoring.app import create_app
from tests.services.scoring.work import finish
from tests.shared.jobs.fakes import CountingBroker

SNAPKV = {"methods": ["snapkv"], "selectors": ["snapkv"], "ratios": [0.1, 0.4], "questions": 10, "margin": 0.9}

Ask = Callable[..., httpx.Response]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", shard_pages=4, shard_questions=4, max_body_bytes=200_000)


@pytest.fixture
def broker() -> CountingBroker:
    return CountingBroker()


@pytest.fixture
def app(settings: Settings, broker: CountingBroker, migrated: Callable[[Settings], None]) -> FastAPI:
    migrated(settings)
    return create_app(settings, broker=broker)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One application for all tests of what is refused: they leave nothing behind. It holds one map."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("refusing"), max_body_bytes=200_000)
    migrate(settings)
    with TestClient(create_app(settings, broker=CountingBroker()), raise_server_exceptions=False) as opened:
        scores = {f"{layer}-{head}": layer + head + 1 for layer in range(3) for head in range(4)}
        opened.post("/maps", json={"model": "some/model", "num_kv_heads": 2, "scores": scores})
        yield opened


@pytest.fixture(scope="session")
def refusing_map(refusing: TestClient) -> str:
    found: str = refusing.get("/maps").json()["items"][0]["id"]
    return found


@pytest.fixture
def database(app: FastAPI) -> Database:
    found: Database = app.state.scoring.database
    return found


@pytest.fixture
def start(client: TestClient) -> Callable[..., dict[str, Any]]:
    """Start a job on the bundled model; returns its body."""

    def post(**fields: Any) -> dict[str, Any]:
        response = client.post("/score", json={"model": DEMO_MODEL, "pages": 10, **fields})
        assert response.status_code in (200, 202), response.text
        body: dict[str, Any] = response.json()
        return body

    return post


@pytest.fixture
def upload(client: TestClient) -> Callable[..., dict[str, Any]]:
    """Import a map of 3 layers x 4 heads; returns its body."""

    def post(seed: int = 0, **fields: Any) -> dict[str, Any]:
        scores = {f"{la}-{h}": [((la * 4 + h + seed) * 7 % 12) ** 2, 1.5] for la in range(3) for h in range(4)}
        body = {"model": "some/model", "num_kv_heads": 2, "scores": scores, **fields}
        response = client.post("/maps", json=body)
        assert response.status_code == 201, response.text
        found: dict[str, Any] = response.json()
        return found

    return post


@pytest.fixture
def ask(client: TestClient) -> Ask:
    """Ask for an evaluation that needs no map."""

    def post(**fields: Any) -> httpx.Response:
        body = {"model": DEMO_MODEL, "dataset": "synthetic", **SNAPKV, **fields}
        return client.post("/evaluations", json=body)

    return post


@pytest.fixture
def done(ask: Ask, database: Database, client: TestClient) -> dict[str, Any]:
    """An evaluation that has succeeded."""
    job_id = ask().json()["id"]
    finish(database, job_id)
    found: dict[str, Any] = client.get(f"/evaluations/{job_id}").json()
    return found


def add_map(client: TestClient, model: str = DEMO_MODEL, **fields: Any) -> dict[str, Any]:
    info = find_model(DEMO_MODEL, Settings())
    scores = {f"{la}-{h}": la + h + 1 for la in range(info.num_layers) for h in range(info.num_heads)}
    body = {"model": model, "num_kv_heads": info.num_kv_heads, "scores": scores, **fields}
    found: dict[str, Any] = client.post("/maps", json=body).json()
    return found
