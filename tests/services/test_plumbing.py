"""What browsers, load balancers and careless clients do to every route: HEAD, trailing slashes, other origins."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import SecretStr
from starlette.types import Message

import headmap
from headmap.registry.migrations import migrate
from headmap.settings import DEMO_MODEL, Settings
from services.embedded.app import create_app
from tests.services.inference.fakes import FakeModels
from tests.shared.jobs.fakes import CountingBroker

ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), cors_origins=(ORIGIN,))
    migrate(settings)
    return create_app(settings, open_model=FakeModels(), broker=CountingBroker(), url="http://127.0.0.1:1")


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def picture() -> str:
    file = BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def test_head_answers_as_get_does_without_a_body(client: TestClient) -> None:
    paths = {path for path, item in client.get("/openapi.json").json()["paths"].items() if "get" in item}
    named = {path.replace("{model_id}", DEMO_MODEL) for path in paths if "events" not in path}
    named |= {"/", "/docs", "/dashboard/maps", "/dashboard/static/icon.svg", "/openapi.json", "/nowhere", "/generate"}
    assert len(named) > 20
    varies = {"x-request-id", "date", "content-length"}  # /metrics has grown meanwhile
    for path in sorted(named):
        got, headed = client.get(path), client.head(path)
        assert headed.status_code == got.status_code, path
        assert headed.content == b"", path
        assert {key: value for key, value in headed.headers.items() if key not in varies} == {
            key: value for key, value in got.headers.items() if key not in varies
        }, path
        assert ("content-length" in headed.headers) == ("content-length" in got.headers), path
    assert 'headmap_http_requests_total{method="HEAD",route="/maps",status="200"} 1.0' in client.get("/metrics").text


async def test_head_of_a_stream_ends_at_once(app: FastAPI, client: TestClient) -> None:
    job = client.post("/score", json={"model": DEMO_MODEL, "pages": 1}).json()["id"]
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def receive() -> Message:
        await asyncio.sleep(3600)
        raise AssertionError("nobody hangs up")

    scope = {
        "type": "http", "method": "HEAD", "path": f"/score/{job}/events", "raw_path": f"/score/{job}/events".encode(),
        "query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 20)
    assert [(one["type"], one.get("status"), one.get("body")) for one in told] == [
        ("http.response.start", 200, None),
        ("http.response.body", None, b""),
    ]
    assert (b"content-type", b"text/event-stream; charset=utf-8") in told[0]["headers"]


def test_trailing_slashes_answer_in_place(client: TestClient) -> None:
    chat = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    bodies: dict[str, Any] = {
        "/v1/chat/completions/": chat,
        "/v1/completions/": {"model": DEMO_MODEL, "prompt": "Hello"},
        "/generate/": {"inputs": "What is it?", "images": [picture()]},
        "/score/": {"model": DEMO_MODEL, "pages": 1, "seed": 5},
    }
    for path, body in bodies.items():
        assert client.post(path, json=body).status_code in (200, 202), path
        assert client.post(f"{path}/", json=body).status_code in (200, 202), path
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()
    assert client.get(f"/v1/models/{DEMO_MODEL}/").json()["id"] == DEMO_MODEL
    for path in ("/maps/", "/info/", "/health/", "/metrics/?a=/", "/docs/", "/dashboard/maps/", "/openapi.json/"):
        assert client.get(path).status_code == 200, path
    assert "dashboard" in client.get("/docs/").text  # the page, as without the slash
    assert client.get(f"/v1/models/{DEMO_MODEL}%2F").status_code == 404  # part of the name


def test_a_slash_opens_no_door(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, api_keys=(SecretStr("key"),))
    migrate(settings)
    with TestClient(create_app(settings, open_model=FakeModels(), broker=CountingBroker())) as client:
        for path in ("/maps", "/maps/", "/ping/../maps", "/version", "/metrics/", "/health/live/x"):
            assert client.get(path).status_code == 401, path
        for path in ("/health", "/health/", "/health/live/", "/ping", "/ping/"):
            assert client.get(path).status_code == 200, path


def test_root_is_the_dashboards_to_see_and_inferences_to_post(app: FastAPI, client: TestClient) -> None:
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.head("/").status_code == 200
    answer = client.post("/", json={"inputs": "What is it?", "images": [picture()]})
    assert (answer.status_code, next(iter(answer.json()[0]))) == (200, "generated_text")


def test_ping_and_version(client: TestClient) -> None:
    assert (client.get("/ping").status_code, client.get("/ping").json()) == (200, {})
    assert client.get("/version").json() == {"version": headmap.__version__}
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/ping", "/version"} <= set(paths)


def test_an_allowed_origin_may_send_any_header_it_asks_for(client: TestClient) -> None:
    asked = "authorization, content-type, x-headmap-kv, x-stainless-arch, x-stainless-retry-count"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    answer = client.options("/v1/chat/completions", headers={"Origin": ORIGIN, **ask})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-headers"] == asked
    assert client.options("/info/", headers={"Origin": ORIGIN, **ask}).status_code == 200
    other = client.options("/info", headers={"Origin": "https://other.example", **ask})
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


def test_an_allowed_origin_may_read_the_headers_that_say_something(client: TestClient) -> None:
    answer = client.get("/info", headers={"Origin": ORIGIN})
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"x-request-id", "location", "retry-after", "x-headmap-kv", "x-headmap-ignored"} <= exposed
    assert "access-control-expose-headers" not in client.get("/info").headers
