"""The dashboard in front of a real scoring application, which needs the key "right"; no sockets between them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from services.dashboard.app import create_app
from services.dashboard.state import Addresses
from services.scoring.app import create_app as create_scoring
from tests.shared.jobs.fakes import CountingBroker

KEY = "right"
OURS = {"X-Requested-With": "headmap"}
ADDRESSES = Addresses("http://127.0.0.1:9", ("http://127.0.0.1:9",))


def dashboard(transport: httpx.AsyncBaseTransport) -> FastAPI:
    return create_app(Settings(), ADDRESSES, transport=transport)


@pytest.fixture(scope="session")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    settings = Settings(data_dir=tmp_path_factory.mktemp("dashboard"), api_keys=(SecretStr(KEY),))
    migrate(settings)
    return create_scoring(settings, broker=CountingBroker())


@pytest.fixture
def client(scoring: FastAPI) -> Iterator[TestClient]:
    app = dashboard(httpx.ASGITransport(scoring))
    with TestClient(app, headers=OURS, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def known(client: TestClient) -> TestClient:
    """The client with a session that has the key."""
    assert client.post("/dashboard/session", json={"key": KEY}).status_code == 200
    return client
