"""Map files and the search of maps over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.registry.session import Database
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish

Upload = Callable[..., dict[str, Any]]
NOBODY = "0" * 32
SCORES = {"0-0": 1, "0-1": 2}


def profiled(client: TestClient, start: Callable[..., dict[str, Any]], database: Database) -> str:
    job = start()
    finish(database, job["id"])
    found: str = client.get(f"/score/{job['id']}").json()["map_id"]
    return found


def test_an_export_is_a_download_that_an_import_takes_as_it_is(
    client: TestClient, start: Callable[..., dict[str, Any]], database: Database
) -> None:
    first = profiled(client, start, database)
    assert client.patch(f"/maps/{first}", json={"tags": ["a", "b"], "notes": "n"}).status_code == 200
    exported = client.get(f"/maps/{first}/export")
    assert exported.headers["content-disposition"] == 'attachment; filename="headmap-demo-ocr-v1.json"'
    headers = {"Content-Type": "application/json"}
    made = client.post("/maps", content=exported.content, headers=headers)
    assert made.status_code == 201, made.text
    ours, theirs = made.json(), client.get(f"/maps/{first}").json()
    here = {"id", "version", "created_at", "aliases", "job_id"}
    origin = {"origin_map_id": first, "origin_version": 1, "origin_created_at": theirs["created_at"]}
    assert {name for name in ours if ours[name] != theirs[name]} == here | set(origin)
    assert origin.items() <= ours.items()
    errors = [client.get(f"/maps/{one}/scores?format=standard_errors").json() for one in (first, ours["id"])]
    assert errors[0] == errors[1]
    assert client.get(f"/maps/{ours['id']}/export").content == exported.content


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"checksum": "0" * 64}, "invalid_parameter", "checksum"),
        ({"pages": "3"}, "invalid_parameter", "pages"),
        ({"pages": [3]}, "invalid_parameter", "pages"),
        ({"origin_created_at": "now"}, "invalid_parameter", "origin_created_at"),
        ({"standard_errors": [[1]]}, "invalid_parameter", "standard_errors"),
        ({"standard_errors": [[1, None]]}, "invalid_parameter", "standard_errors"),
        ({"standard_errors": [1, 2]}, "invalid_parameter", "standard_errors"),
        ({"tags": [1, 2]}, "invalid_parameter", "tags"),
        ({"job_id": "1"}, "invalid_parameter", "job_id"),
    ],
)
def test_a_file_with_a_fault_is_refused_by_its_field(
    refusing: TestClient, fields: dict[str, Any], code: str, named: str
) -> None:
    body = {"model": "a/b", "num_kv_heads": 1, "scores": SCORES, **fields}
    response = refusing.post("/maps", json=body)
    assert_problem(response, 422, code, named)
    assert response.json()["param"].split(".")[0] == named


def test_tags_can_be_taken_off(client: TestClient, upload: Upload) -> None:
    map_id = upload(tags=["a"], notes="n")["id"]
    assert client.patch(f"/maps/{map_id}", json={"tags": [], "notes": None}).json()["tags"] == []


def test_a_deleted_maps_number_is_not_given_again(client: TestClient, upload: Upload) -> None:
    upload()
    second = upload()
    assert client.delete(f"/maps/{second['id']}").status_code == 204
    assert upload()["version"] == 3


def test_maps_are_searched(client: TestClient, upload: Upload) -> None:
    upload(0, tags=["prod", "eu"], pages=5)
    upload(1, tags=["prod"], pages=900, notes="after the Move")
    upload(2, model="other", tags=[], dataset="receipts", rule="paper")

    def ask(*query: tuple[str, Any]) -> list[tuple[str, int]]:
        answer = client.get("/maps", params=list(query))
        assert answer.status_code == 200, answer.text
        return [(one["model"], one["version"]) for one in answer.json()["items"]]

    one, two, other = ("some/model", 1), ("some/model", 2), ("other", 1)
    assert ask(("tag", "prod")) == [two, one]
    assert ask(("tag", "prod"), ("tag", "eu")) == [one]
    assert ask(("min_pages", 6)) == ask(("text", "move")) == [two]
    assert ask(("dataset", "receipts")) == ask(("rule", "paper")) == [other]
    assert ask(("alias", "default"), ("model", "some/model")) == [one]
    assert ask(("order_by", "pages")) == [other, one, two]
    first = client.get("/maps", params={"order_by": "pages desc", "limit": 1}).json()
    assert [one["pages"] for one in first["items"]] == [900]
    assert ask(("order_by", "pages desc"), ("cursor", first["next_cursor"])) == [one, other]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"order_by": "size"}, "order_by"),
        ({"order_by": "pages down"}, "order_by"),
        ({"min_pages": -1}, "min_pages"),
        ({"min_pages": "many"}, "min_pages"),
        ({"tag": ""}, "tag"),
        ({"text": ""}, "text"),
        ({"text": "a\x00"}, "text"),
        ({"dataset": "d" * 65}, "dataset"),
        ({"cursor": "MTJ8MTJ8cGFnZXM", "order_by": "pages desc"}, "cursor"),
        ({"cursor": "eHwxMnxwYWdlcw", "order_by": "pages"}, "cursor"),
        ({"cursor": "MTAwMDAwMDAwMDAwMDAwMDAwMDAwMDB8MTJ8cGFnZXM", "order_by": "pages"}, "cursor"),
    ],
)
def test_a_search_for_what_cannot_be_is_refused(refusing: TestClient, query: dict[str, Any], named: str) -> None:
    response = refusing.get("/maps", params=query)
    assert_problem(response, 422, "invalid_parameter", named)


@pytest.mark.parametrize("map_id", [NOBODY, "x"])
def test_a_map_that_does_not_exist_has_no_file(refusing: TestClient, map_id: str) -> None:
    assert_problem(refusing.get(f"/maps/{map_id}/export"), 404, "map_not_found")


def test_a_file_is_as_the_registry_has_it(client: TestClient, upload: Upload) -> None:
    body = json.loads(client.get(f"/maps/{upload()['id']}/export").content)
    assert (body["pages"], body["dataset"], body["standard_errors"]) == (None, "import", None)
    assert len(body["scores"]) == 12
