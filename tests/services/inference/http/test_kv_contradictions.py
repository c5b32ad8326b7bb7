"""What contradicts a cache method is refused by its name, on every route, before any picture is decoded."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.models import DEMO_MODEL

CONTRADICTIONS = [
    ({"method": "full", "ratio": 0.2}, "kv.ratio"),
    ({"method": "full", "budget": 64}, "kv.budget"),
    ({"method": "full", "budget": 64, "ratio": 0.2}, "kv.budget"),
    ({"method": "full", "map": "default"}, "kv.map"),
    ({"method": "snapkv", "ratio": 0.2, "map": "default"}, "kv.map"),
    ({"method": "snapkv"}, "kv.budget"),
]


@pytest.mark.parametrize(("kv", "param"), CONTRADICTIONS)
def test_a_contradiction_is_refused_by_name(client: TestClient, kv: dict[str, Any], param: str) -> None:
    body = {"inputs": "What is it?", "images": ["no picture"], "parameters": {"kv": kv}}
    response = client.post("/generate", json=body)
    assert (response.status_code, response.json()["param"]) == (422, param)
    assert param.rpartition(".")[2] in response.json()["detail"]


@pytest.mark.parametrize(("kv", "param"), CONTRADICTIONS)
def test_under_v1_as_well(client: TestClient, kv: dict[str, Any], param: str) -> None:
    body = {"model": DEMO_MODEL, "messages": [{"role": "user", "content": "What is it?"}], "kv": kv}
    response = client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_ratio_of_1_is_what_full_keeps(client: TestClient, picture: str) -> None:
    body = {"inputs": "What is it?", "images": [picture], "parameters": {"kv": {"method": "full", "ratio": 1}}}
    assert client.post("/generate", json=body).status_code == 200
