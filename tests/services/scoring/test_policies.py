"""Policies over HTTP: one test for each outcome."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from headmap.settings import DEMO_MODEL
from tests.services.scoring.test_aliases import imported

KV = {"method": "snapkv", "ratio": 0.2}
FULL_KV = {"method": "snapkv", "ratio": 0.2, "allocation": "exact", "uniform": 0.1}


def put(
    client: TestClient, name: str = "documents", model: str = DEMO_MODEL, kv: Any = KV, **headers: str
) -> httpx.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.put(f"/policies/{model}/{name}", json={"kv": kv}, headers=named)


@pytest.mark.parametrize("model", [DEMO_MODEL, "m", "/srv/models/m", "a/history", "org/na me@x"])
def test_a_policy_is_made_changed_read_and_deleted(client: TestClient, model: str) -> None:
    where = f"/policies/{model}/documents"
    made = put(client, model=model)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    assert made.json() == made.json() | {"model": model, "name": "documents", "version": 1, "kv": FULL_KV}
    assert (made.json()["evaluation_id"], made.json()["created_by"]) == (None, None)
    again = put(client, model=model, kv={"method": "full"})
    assert (again.status_code, again.headers["etag"], again.json()["version"]) == (200, '"2"', 2)
    shown = client.get(where)
    assert (shown.headers["etag"], shown.json()) == ('"2"', again.json())
    assert client.delete(where).status_code == 204
    gone = client.get(where)
    assert (gone.status_code, gone.json()["code"]) == (404, "policy_not_found")
    told = client.get(f"{where}/history").json()["items"]
    assert [(one["version"], one["kv"] and one["kv"]["method"]) for one in told] == [
        (3, None),
        (2, "full"),
        (1, "snapkv"),
    ]


def test_policies_are_listed_by_model_and_page(client: TestClient) -> None:
    for name in ("one", "two"):
        put(client, name)
    put(client, "three", model="other")
    listed = client.get("/policies", params={"model": DEMO_MODEL, "limit": 1}).json()
    rest = client.get("/policies", params={"model": DEMO_MODEL, "cursor": listed["next_cursor"]}).json()
    assert [one["name"] for one in listed["items"] + rest["items"]] == ["two", "one"]
    assert len(client.get("/policies").json()["items"]) == 3


def test_a_write_that_another_overtook_is_412(client: TestClient) -> None:
    assert put(client, If_Match="*").status_code == 412
    assert put(client, If_None_Match="*").status_code == 201
    refused = put(client, If_None_Match="*")
    assert (refused.status_code, refused.json()["code"]) == (412, "policy_changed")
    assert put(client, If_Match='"1"').status_code == 200
    assert put(client, If_Match='"1"').status_code == 412
    where = f"/policies/{DEMO_MODEL}/documents"
    assert client.delete(where, headers={"If-Match": '"1"'}).status_code == 412
    assert client.delete(where, headers={"If-Match": '"1", "2"'}).status_code == 204


@pytest.mark.parametrize(("header", "value"), [("If_Match", "1"), ("If_None_Match", '"1"')])
def test_a_malformed_precondition_is_422(client: TestClient, header: str, value: str) -> None:
    answer = put(client, **{header: value})
    assert (answer.status_code, answer.json()["param"]) == (422, header.replace("_", "-"))


BAD: list[tuple[Any, str, str]] = [
    (None, "invalid_parameter", "kv"),
    ("full", "invalid_parameter", "kv"),
    ({}, "invalid_parameter", "kv.budget"),
    ({"method": "h2o", "ratio": 0.2}, "unknown_method", "kv.method"),
    ({"method": "snapkv", "ratio": 2}, "invalid_parameter", "kv.ratio"),
    ({"method": "snapkv", "ratio": "0.2"}, "invalid_parameter", "kv.ratio"),
    ({"method": "snapkv", "budget": 0}, "budget_too_small", "kv.budget"),
    ({"method": "snapkv", "budget": 8, "window": 8}, "budget_too_small", "kv.window"),
    ({"method": "snapkv", "budget": 8, "ratio": 0.2}, "invalid_parameter", "kv.budget"),
    ({"method": "full", "ratio": 0.2}, "invalid_parameter", "kv.ratio"),
    ({"method": "snapkv", "ratio": 0.2, "map": "default"}, "invalid_parameter", "kv.map"),
    (KV | {"uniform": 2}, "invalid_parameter", "kv.uniform"),
    (KV | {"allocation": "best"}, "invalid_parameter", "kv.allocation"),
    (KV | {"policy": "other"}, "invalid_parameter", "kv.policy"),
]


@pytest.mark.parametrize(("kv", "code", "param"), BAD)
def test_a_bad_kv_is_422_by_its_field(refusing: TestClient, kv: Any, code: str, param: str) -> None:
    answer = put(refusing, kv=kv)
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (422, code, param), answer.text


@pytest.mark.parametrize("name", ["full", "sparsemm-0.2", "h2o-0.1", "history", "a@b", "x" * 65])
def test_a_name_that_cannot_be_served_is_422(refusing: TestClient, name: str) -> None:
    assert put(refusing, name).status_code == 422


def test_the_map_must_be_there_and_of_the_model(client: TestClient) -> None:
    there = imported(client)["id"]
    kv = {"method": "sparsemm", "ratio": 0.2}
    assert put(client, model="m", kv=kv | {"map": there}).status_code == 201
    assert put(client, model="m", kv=kv | {"map": "default"}).status_code == 200
    for named, code, status in (
        ("0" * 32, "map_not_found", 404),
        ("stable", "map_not_found", 404),
        (there, "map_mismatch", 409),
    ):
        answer = put(client, model="other", kv=kv | {"map": named})
        assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (status, code, "kv.map")


def test_a_map_that_a_policy_names_cannot_be_deleted(client: TestClient) -> None:
    imported(client)
    held = imported(client)["id"]
    put(client, model="m", kv={"method": "sparsemm", "ratio": 0.2, "map": held})
    refused = client.delete(f"/maps/{held}")
    assert (refused.status_code, refused.json()["code"]) == (409, "map_in_use")
    assert "policy documents" in refused.json()["detail"]
    client.delete("/policies/m/documents")
    assert client.delete(f"/maps/{held}").status_code == 204


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/history"), ("DELETE", "")])
def test_an_unknown_policy_is_404(refusing: TestClient, method: str, path: str) -> None:
    answer = refusing.request(method, f"/policies/{DEMO_MODEL}/never{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "policy_not_found")
