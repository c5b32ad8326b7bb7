"""Large bodies: parsed in full, one at a time, whatever size their chunks have."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from time import sleep
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from headmap.errors import PayloadTooLarge
from headmap.http import bodies
from headmap.http.bodies import MeasuredRoute, install_reader, parse_json
from headmap.http.costs import Costs, JsonMeter
from headmap.http.problems import install_handlers
from headmap.settings import Settings


@pytest.fixture
def client() -> Iterator[TestClient]:
    router, app = APIRouter(route_class=MeasuredRoute), FastAPI()
    install_reader(app, Settings())

    @router.post("/length")
    def length(body: dict[str, str]) -> int:
        return len(body["text"])

    app.include_router(router)
    install_handlers(app)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("length", [0, 1000, 300_000])
def test_a_body_in_chunks_arrives_whole(client: TestClient, length: int) -> None:
    body = json.dumps({"text": "x" * length}).encode()
    chunks = (body[start : start + 7000] for start in range(0, len(body), 7000))

    answer = client.post("/length", content=chunks, headers={"Content-Type": "application/json"})

    assert answer.json() == length


@pytest.mark.parametrize("length", [3, 300_000])
def test_a_byte_order_mark_is_passed_over(client: TestClient, length: int) -> None:
    body = codecs.BOM_UTF8 + json.dumps({"text": "x" * length}).encode()
    answer = client.post("/length", content=body, headers={"Content-Type": "application/json"})
    assert answer.json() == length


def test_an_empty_body_is_refused(client: TestClient) -> None:
    assert client.post("/length", content=b"", headers={"Content-Type": "application/json"}).status_code == 422


def test_large_bodies_are_parsed_one_at_a_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, under_way, most, parse = Lock(), 0, 0, bodies.parse_json

    def counted(*arguments: Any) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        sleep(0.02)
        with lock:
            under_way -= 1
        return parse(*arguments)

    monkeypatch.setattr(bodies, "parse_json", counted)
    body = {"text": "x" * 100_000}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/length", json=body).json(), range(8)))
    assert answers == [100_000] * 8
    assert most == 1


@pytest.mark.parametrize("unit", ["x", '"', "\\", "é", "x" * 11 + "😀", "😀", "\n", "\x7f", '\\"'])
@pytest.mark.parametrize("size", [40_000, 4_300_000])
@pytest.mark.parametrize("plain", [True, False])
def test_long_texts_come_out_as_they_went_in(unit: str, size: int, plain: bool) -> None:
    text = unit * (size // len(unit))
    value = {"a": text, "b": [1, {"c": text[::-1], "short": unit}], text: None}
    body = bytearray(json.dumps(value, ensure_ascii=plain).encode())
    if size > 4 * 2**20 and not unit.isascii():  # as one character of it may make it four times as large
        with pytest.raises(PayloadTooLarge):
            read_whole(body)
    else:
        assert read_whole(body) == value
        assert not body  # nothing is held twice


def test_a_text_that_is_no_json_is_refused_however_long() -> None:
    for text in (b"\n", b"\\x", b"\xff", b"\\ud800"):
        with pytest.raises(ValueError, match=r"control|escape|unicode|surrogate|hex"):
            read_whole(bytearray(b'["' + b"x" * 5_000_000 + text + b"x" * 100_000 + b'"]'))


def read_whole(body: bytearray) -> Any:
    costs = Costs.of(Settings())
    meter = JsonMeter(costs)
    meter.feed(body, ended=True)
    return parse_json(body, meter.long_texts, costs)


def test_a_refusal_names_the_body(client: TestClient) -> None:
    answer = client.post("/length", json={"text": [1] * 300_000})
    assert (answer.status_code, answer.json()["param"]) == (413, "body")
    assert "values" in answer.json()["detail"]
