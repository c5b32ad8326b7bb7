from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message

from tests.services.dashboard.conftest import OURS, dashboard

Handler = Callable[[httpx.Request], httpx.Response]


@contextmanager
def in_front_of(handler: Handler) -> Iterator[TestClient]:
    with TestClient(dashboard(httpx.MockTransport(handler)), headers=OURS, raise_server_exceptions=False) as client:
        yield client


def test_what_the_api_answers_passes_as_it_is(known: TestClient) -> None:
    scores = {f"{layer}-{head}": layer + head + 1 for layer in range(3) for head in range(4)}
    made = known.post("/dashboard/api/maps", json={"model": "some/model", "num_kv_heads": 2, "scores": scores})
    assert made.status_code == 201
    assert made.headers["location"] == f"/maps/{made.json()['id']}"
    path = f"/dashboard/api/maps/{made.json()['id']}"
    assert known.put(f"{path}/aliases/stable").json()["aliases"] == ["default", "stable"]
    asked = known.get(f"{path}/budgets", params={"budget": 9, "prompt_tokens": 70}).json()
    assert (asked["budget"], asked["prompt_tokens"]) == (9, 70)
    assert known.get("/dashboard/api/evaluations").json() == {"items": [], "next_cursor": None}
    assert known.get(f"{path}/heatmap.svg").headers["content-type"].startswith("image/svg+xml")


def test_a_write_holds_only_while_nobody_else_wrote(known: TestClient) -> None:
    where, body = "/dashboard/api/policies/org/model/documents", {"kv": {"method": "full"}}
    assert known.put(where, json=body, headers={"If-None-Match": "*"}).headers["etag"] == '"1"'
    assert known.put(where, json=body, headers={"If-None-Match": "*"}).status_code == 412
    assert known.delete(where, headers={"If-Match": '"7"'}).status_code == 412
    assert known.delete(where, headers={"If-Match": '"1"'}).status_code == 204


def test_a_browser_keeps_what_never_changes_and_no_other_cache_does(known: TestClient) -> None:
    made = known.post("/dashboard/api/maps", json={"model": "m", "num_kv_heads": 1, "scores": {"0-0": 1}})
    path = f"/dashboard/api/maps/{made.json()['id']}"
    scores = known.get(f"{path}/scores")
    assert scores.headers["cache-control"] == "private, max-age=31536000, immutable"
    again = known.get(f"{path}/scores", headers={"If-None-Match": scores.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert known.get(path).headers["cache-control"] == "private, no-cache"
    assert known.get("/dashboard/api/score").headers["cache-control"] == "no-store"


def test_an_export_passes_with_its_name_and_is_taken_back(known: TestClient) -> None:
    made = known.post("/dashboard/api/maps", json={"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": 1}}).json()
    file = known.get(f"/dashboard/api/maps/{made['id']}/export")
    assert file.headers["content-disposition"] == 'attachment; filename="a-b-v1.json"'
    again = known.post("/dashboard/api/maps", json=file.json())
    assert (again.status_code, again.json()["origin_map_id"]) == (201, made["id"])


def test_problems_pass_as_they_are(known: TestClient) -> None:
    response = known.post("/dashboard/api/score", json={"model": "nobody/nothing"})
    assert (response.status_code, response.json()["code"]) == (404, "model_not_found")
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["metrics", "docs", "scores", "maps/../metrics", "maps//x", "v1", ""])
def test_only_the_apis_paths_are_handed_on(path: str) -> None:
    def never(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was called")

    with in_front_of(never) as client:
        # httpx would tidy the dots up before they are sent
        response = client.get(f"/dashboard/api/{path}".replace("..", "%2E%2E"))
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_names_with_odd_characters_stay_one_path() -> None:
    asked: list[bytes] = []

    def note(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(200, json={})

    with in_front_of(note) as client:
        client.get("/dashboard/api/v1/models/org/na%20me%3Fx?a=1&a=2%26")
    assert asked == [b"/v1/models/org/na%20me%3Fx?a=1&a=2%26"]


def test_a_service_that_is_away_is_a_problem_in_words() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with in_front_of(away) as client:
        response = client.get("/dashboard/api/maps")
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")


class Broken(httpx.AsyncByteStream):
    """Says something and breaks off; knows whether it was closed."""

    closed = False

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        raise httpx.ReadError("reset")

    async def aclose(self) -> None:
        self.closed = True


def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    stream = Broken(b'data: {"token": {"text": "A"}}\n\n', b"data: {")

    def half(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)

    with in_front_of(half) as client:
        response = client.post("/dashboard/api/generate", json={})
        name, data = response.text.strip().rsplit("\n\n", 1)[-1].split("\n")
        assert response.text.startswith('data: {"token": {"text": "A"}}\n\n')
        assert (name, json.loads(data.removeprefix("data: "))["code"]) == ("event: error", "unavailable")
        assert stream.closed


def asked_with(body: int, *more: tuple[bytes, bytes], path: str = "/dashboard/api/generate") -> dict[str, object]:
    """The scope of a POST of `body` bytes."""
    headers = [(b"x-requested-with", b"headmap"), (b"content-length", str(body).encode()), *more]
    return {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "client": ("192.0.2.9", 1),
    }  # fmt: skip


async def test_a_large_body_of_somebody_without_a_key_is_not_read(scoring: FastAPI) -> None:
    app = dashboard(httpx.ASGITransport(scoring))
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    await app(asked_with(1 << 20), receive, send)
    assert told[0]["status"] == 401


async def test_a_body_passes_as_it_comes() -> None:
    """A piece has reached the service before the next is read; who sends it is told along."""
    pieces = [b"x" * (1 << 16)] * 8
    taken: list[int] = []
    headers: list[httpx.Headers] = []
    ahead: list[int] = []

    class Service(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                headers.append(request.headers)
                assert isinstance(request.stream, httpx.AsyncByteStream)
                async for piece in request.stream:
                    taken.append(len(piece))
            return httpx.Response(200, stream=httpx.ByteStream(b"{}"))

    sent = 0

    async def receive() -> Message:
        nonlocal sent
        if sent == len(pieces):
            await asyncio.sleep(3600)
        ahead.append(sent - len(taken))
        sent += 1
        return {"type": "http.request", "body": pieces[sent - 1], "more_body": sent < len(pieces)}

    async def send(message: Message) -> None:
        del message

    whole = sum(map(len, pieces))
    await dashboard(Service())(asked_with(whole, (b"content-type", b"application/json")), receive, send)
    assert sum(taken) == whole
    assert max(ahead) == 0
    assert headers[0]["content-length"] == str(whole)
    assert headers[0]["x-forwarded-for"] == "192.0.2.9"
    assert headers[0]["content-type"] == "application/json"


async def test_headers_pass_byte_for_byte() -> None:
    """What the service makes of bytes that are no ASCII is its own affair."""
    seen: list[tuple[bytes, bytes]] = []
    statuses: list[object] = []
    body = [b"{}"]

    def note(request: httpx.Request) -> httpx.Response:
        seen.extend((name.lower(), value) for name, value in request.headers.raw)
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))

    async def receive() -> Message:
        if not body:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": body.pop(), "more_body": False}

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    odd = ((b"idempotency-key", b"\xff\xfe"), (b"accept", "é".encode()))
    await dashboard(httpx.MockTransport(note))(asked_with(2, *odd), receive, send)
    assert statuses[0] == 200
    assert set(odd) <= set(seen)
