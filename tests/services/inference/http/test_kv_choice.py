"""Budgets for clients that cannot send a field: in the model's name, and in a header."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.kvcache.select import SELECTORS
from headmap.settings import DEMO_MODEL
from tests.services.inference.conftest import AddMap, wait_for
from tests.services.inference.fakes import FakeModels

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x" * 200}]},
    "/v1/completions": {"prompt": "x" * 200},
    "/v1/responses": {"input": "x" * 200},
    "/generate": {"inputs": "x" * 200},
    "/generate_stream": {"inputs": "x" * 200},
    "/": {"inputs": "x" * 200},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_names_and_headers_set_the_budget_everywhere(
    client: TestClient, models: FakeModels, file_map: AddMap, path: str, stream: bool
) -> None:
    map_id = file_map()
    wait_for(lambda: client.get("/v1/models").json()["data"][0]["map"] is not None)
    body = PATHS[path] | ({} if path == "/generate_stream" else {"stream": stream})
    by_name = client.post(path, json=body | {"model": f"{DEMO_MODEL}@sparsemm-0.2"})
    by_header = client.post(path, json=body, headers={"x-headmap-kv": "method=sparsemm; ratio=0.2"})
    for answer in (by_name, by_header):
        assert answer.status_code == 200, answer.text
        told = dict(part.split("=") for part in answer.headers["x-headmap-kv"].split("; "))
        assert (told["method"], told["ratio"], told["map"]) == ("sparsemm", "0.2", map_id)
        assert "kept" in told or "text/event-stream" in answer.headers["content-type"]
    assert [request.kv.ratio for request in models.engine.requests] == [0.2, 0.2]
    if "kept" in told:
        assert float(told["kept"]) == pytest.approx(0.2, abs=0.01)


def test_the_name_is_told_as_it_was_asked(client: TestClient) -> None:
    name = f"{DEMO_MODEL}@snapkv-0.1"
    answer = client.post("/v1/chat/completions", json=PATHS["/v1/chat/completions"] | {"model": name}).json()
    assert (answer["model"], answer["kv"]["method"]) == (name, "snapkv")


def test_a_named_budget_is_a_model_to_look_up(client: TestClient) -> None:
    name = f"{DEMO_MODEL}@snapkv-0.1"
    assert client.get(f"/v1/models/{name}").json()["id"] == name
    assert client.get(f"/v1/models/{DEMO_MODEL}@h2o-0.1").status_code == 400


def test_no_harness_takes_snapkv_for_sparsemm(client: TestClient) -> None:
    body = PATHS["/v1/chat/completions"] | {"model": f"{DEMO_MODEL}@sparsemm-0.2"}
    told = client.post("/v1/chat/completions", json=body).headers["x-headmap-kv"]
    assert told.startswith("method=snapkv; ratio=0.2; map=none; kept=0.")


GOOD: list[tuple[str | None, str | None, Any, dict[str, Any]]] = [
    ("@full", None, None, {"method": "full"}),
    ("@pyramidkv-1", None, None, {"method": "pyramidkv", "ratio": 1.0}),
    ("", "method=snapkv; budget=64; window=8", None, {"method": "snapkv", "budget": 64, "window": 8}),
    ("", "method=full", None, {"method": "full"}),
    ("", " ", None, {"method": "full"}),
    ("@snapkv-0.5", "method=snapkv;ratio=0.5", {"method": "snapkv", "ratio": 0.5}, {"method": "snapkv"}),
    ("tgi", None, None, {"method": "full"}),
    ("dummy", None, None, {"method": "full"}),
]


@pytest.mark.parametrize(("name", "header", "kv", "used"), GOOD)
def test_each_way_is_understood(
    client: TestClient, models: FakeModels, name: str, header: str | None, kv: Any, used: dict[str, Any]
) -> None:
    model = name if name in ("tgi", "dummy") else f"{DEMO_MODEL}{name}"
    body = PATHS["/v1/chat/completions"] | {"model": model, "kv": kv}
    answer = client.post("/v1/chat/completions", json=body, headers={} if header is None else {"x-headmap-kv": header})
    assert answer.status_code == 200, answer.text
    asked = models.engine.requests[0].kv
    assert {field: getattr(asked, field) for field in used} == used


BAD: list[tuple[str, str | None, Any, int, str, str]] = [
    ("@h2o-0.2", None, None, 400, "unknown_method", "kv.method"),
    ("@snapkv", None, None, 400, "invalid_parameter", "model"),
    ("@snapkv-2", None, None, 400, "invalid_parameter", "model"),
    ("@snapkv-nan", None, None, 400, "invalid_parameter", "model"),
    ("@snapkv-x", None, None, 400, "invalid_parameter", "model"),
    ("-else@full", None, None, 404, "model_not_found", "model"),
    ("", "method", None, 400, "invalid_parameter", "x-headmap-kv"),
    ("", "ratio=x", None, 400, "invalid_parameter", "x-headmap-kv"),
    ("", "surprise=1", None, 400, "invalid_parameter", "x-headmap-kv"),
    ("@snapkv-0.5", None, {"method": "snapkv", "ratio": 0.4}, 400, "invalid_parameter", "model"),
    ("@full", "method=snapkv; ratio=0.5", None, 400, "invalid_parameter", "x-headmap-kv"),
]


@pytest.mark.parametrize(("name", "header", "kv", "status", "code", "param"), BAD)
def test_what_is_broken_or_contradicts_is_refused(
    client: TestClient, name: str, header: str | None, kv: Any, status: int, code: str, param: str
) -> None:
    body = PATHS["/v1/chat/completions"] | {"model": f"{DEMO_MODEL}{name}", "kv": kv}
    answer = client.post("/v1/chat/completions", json=body, headers={} if header is None else {"x-headmap-kv": header})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error


@pytest.mark.parametrize(
    ("kv", "used", "recent"),
    [
        ({}, {"name": "mixkv", "observe": "window", "window": 8, "pool": 11, "mix": 1.0}, 8),
        ({"select": "snapkv"}, {"name": "snapkv", "observe": "window", "window": 16, "pool": 5, "mix": 0.0}, 16),
        ({"select": "last-query"}, {"name": "last-query", "observe": "last", "window": 1, "pool": 7, "mix": 0.0}, 8),
        (
            {"select": {"window": 4, "mix": 0.5}},
            {"name": None, "observe": "window", "window": 4, "pool": 5, "mix": 0.5},
            8,
        ),
        (
            {"window": 6, "keep_recent": 2},
            {"name": "snapkv", "observe": "window", "window": 6, "pool": 5, "mix": 0.0},
            2,
        ),
    ],
)
def test_an_answer_tells_what_chose_its_tokens(
    client: TestClient, kv: dict[str, Any], used: dict[str, Any], recent: int
) -> None:
    body = PATHS["/generate"] | {"parameters": {"details": True, "kv": {"method": "snapkv", "budget": 32, **kv}}}
    told = client.post("/generate", json=body).json()["details"]["kv"]
    assert told["select"] == used
    assert told["keep_recent"] == recent


def test_a_selector_stands_in_the_header_too(client: TestClient, models: FakeModels) -> None:
    header = {"x-headmap-kv": "method=snapkv; ratio=0.2; select=mixkv; keep_recent=2"}
    assert client.post("/generate", json=PATHS["/generate"], headers=header).status_code == 200
    assert (models.engine.requests[-1].kv.select, models.engine.requests[-1].kv.keep_recent) == (SELECTORS["mixkv"], 2)


@pytest.mark.parametrize(
    ("kv", "param"),
    [
        ({"select": "best"}, "kv.select"),
        ({"select": {"pool": 16}}, "parameters.kv.select.pool"),
        ({"select": {"observe": "last", "window": 3}}, "kv.select.window"),
        ({"keep_recent": 32}, "kv.keep_recent"),
        ({"select": {"heads": 1}}, "parameters.kv.select.heads"),
    ],
)
def test_a_wrong_selector_is_refused_by_its_field(client: TestClient, kv: dict[str, Any], param: str) -> None:
    body = PATHS["/generate"] | {"parameters": {"kv": {"method": "snapkv", "budget": 32, **kv}}}
    answer = client.post("/generate", json=body)
    assert (answer.status_code, answer.json()["param"]) == (422, param)


def test_the_server_tells_its_selectors_and_its_cache(client: TestClient) -> None:
    info = client.get("/info").json()
    assert info["kv_selectors"] == list(SELECTORS)
    kv = {"method": "snapkv", "budget": 32}
    answer = client.post("/generate", json=PATHS["/generate"] | {"parameters": {"kv": kv, "details": True}}).json()
    assert answer["details"]["kv"]["select"]["name"] == info["kv_default_selector"]
    cache = info["models"][0]["cache"]
    assert cache["memory_bytes"] >= cache["token_bytes"] > 0
    assert cache["max_running"] >= 1
