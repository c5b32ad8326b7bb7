"""Aliases, tags, notes and deletion over HTTP: one test for each outcome."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

BODY = {"model": "m", "num_kv_heads": 1, "scores": {"0-0": 1, "0-1": 2}}


def imported(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post("/maps", json=BODY | more)
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_an_import_takes_default_as_it_wishes(client: TestClient) -> None:
    wishes = [False, "auto", "auto", True]
    assert [imported(client, promote=wish)["aliases"] for wish in wishes] == [[], ["default"], [], ["default"]]


@pytest.mark.parametrize("wish", ["yes", 1, None, []])
def test_another_wish_is_refused_by_its_name(client: TestClient, wish: object) -> None:
    for path, body in (("/maps", BODY), ("/score", {"model": "headmap/demo-ocr"})):
        answer = client.post(path, json=body | {"promote": wish})
        assert (answer.status_code, "promote" in answer.json()["detail"]) == (422, True)


def test_a_job_tells_its_wish(client: TestClient) -> None:
    job = client.post("/score", json={"model": "headmap/demo-ocr", "pages": 1, "promote": False}).json()
    assert job["params"]["promote"] is False


def test_an_alias_is_moved_deleted_and_told(client: TestClient) -> None:
    first, second = imported(client), imported(client)
    moved = client.put(f"/maps/{second['id']}/aliases/default", headers={"If-Match": f'"{first["id"]}"'})
    assert (moved.status_code, moved.headers["etag"], moved.json()["aliases"]) == (
        200,
        f'"{second["id"]}"',
        ["default"],
    )
    assert client.delete(f"/maps/{second['id']}/aliases/default").status_code == 204
    told = client.get(f"/maps/{first['id']}/aliases/history", params={"alias": "default"}).json()["items"]
    ends = [(move["previous"], move["map_id"], move["moved_by"]) for move in told]
    assert ends == [(second["id"], None, None), (first["id"], second["id"], None), (None, first["id"], None)]


def test_a_stale_move_is_412(client: TestClient) -> None:
    first, second = imported(client), imported(client)
    for call in (client.put, client.delete):
        answer = call(f"/maps/{first['id']}/aliases/default", headers={"If-Match": f'"{second["id"]}"'})
        assert (answer.status_code, answer.json()["code"]) == (412, "alias_moved")


@pytest.mark.parametrize("header", ["", "x", '"', '"a", b', 'W/"a"'])
def test_a_malformed_if_match_is_422(client: TestClient, header: str) -> None:
    answer = client.put(f"/maps/{imported(client)['id']}/aliases/default", headers={"If-Match": header})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_an_alias_of_another_map_is_404(client: TestClient) -> None:
    imported(client)
    answer = client.delete(f"/maps/{imported(client)['id']}/aliases/default")
    assert (answer.status_code, answer.json()["code"]) == (404, "alias_not_found")


def test_tags_and_notes(client: TestClient) -> None:
    where = f"/maps/{imported(client)['id']}"
    assert client.patch(where, json={"tags": ["a"], "notes": "b"}).json()["tags"] == ["a"]
    left = client.patch(where, json={"notes": None}).json()
    assert (left["tags"], left["notes"]) == (["a"], None)
    assert client.patch(where, json={"tags": ["a" * 65]}).status_code == 422
    assert client.patch(where, json={"version": 7}).status_code == 422


def test_a_map_in_use_is_409_and_another_is_deleted(client: TestClient) -> None:
    first, second = imported(client), imported(client)
    refused = client.delete(f"/maps/{first['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "map_in_use")
    assert client.delete(f"/maps/{second['id']}").status_code == 204
    assert client.get(f"/maps/{second['id']}").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", ""), ("DELETE", ""), ("GET", "/aliases/history"), ("PUT", "/aliases/a"), ("DELETE", "/aliases/a")],
)
def test_an_unknown_map_is_404(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, f"/maps/{'0' * 32}{path}", json={} if method == "PATCH" else None)
    assert (answer.status_code, answer.json()["code"]) == (404, "map_not_found")
