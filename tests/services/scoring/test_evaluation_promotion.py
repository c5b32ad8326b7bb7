"""What an evaluation measured becomes a policy."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy.orm.attributes import flag_modified

from headmap.registry.session import Database
from headmap.registry.tables import Evaluation
from headmap.settings import DEMO_MODEL
from tests.services.scoring.conftest import Ask, add_map
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish


def promoted(client: TestClient, done: dict[str, Any], headers: dict[str, str] | None = None, **body: Any) -> Any:
    return client.post(f"/evaluations/{done['id']}/promote", json={"policy": "documents", **body}, headers=headers)


def test_the_recommended_point_becomes_a_policy(client: TestClient, done: dict[str, Any]) -> None:
    made = promoted(client, done)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    body = made.json()
    assert body["kv"] == {
        "method": "snapkv", "ratio": 0.1, "allocation": "exact", "uniform": 0.1, "select": "snapkv",
    }  # fmt: skip
    assert (body["evaluation_id"], body["name"]) == (done["id"], "documents")
    assert client.get(f"/policies/{DEMO_MODEL}/documents").json() == body
    other = promoted(client, done, method="snapkv", ratio=0.4)
    assert (other.status_code, other.json()["version"], other.json()["kv"]["ratio"]) == (200, 2, 0.4)
    assert promoted(client, done, method="full").json()["kv"]["method"] == "full"


def test_a_policy_names_its_map_by_id(ask: Ask, client: TestClient, database: Database) -> None:
    read = add_map(client)["id"]
    job = ask(methods=["sparsemm"]).json()
    finish(database, job["id"])
    assert promoted(client, job).json()["kv"]["map"] == read
    assert "map" not in promoted(client, job, method="full").json()["kv"]


def test_selectors_are_told_apart_from_request_to_policy(ask: Ask, client: TestClient, database: Database) -> None:
    own = {"observe": "window", "window": 6, "pool": 3, "mix": 0.0}
    job = ask(selectors=[{"window": 6, "pool": 3}, "last-query"]).json()
    assert job["params"]["selectors"] == ["last-query", own]
    same = ask(methods=["full", "snapkv"], selectors=[{"pool": 7, "observe": "last"}, own])
    assert (same.status_code, same.json()["id"]) == (200, job["id"])
    finish(database, job["id"])
    points = client.get(f"/evaluations/{job['id']}").json()["result"]["points"]
    assert [(point["ratio"], point["select"]) for point in points] == [
        (1, None), (0.1, "last-query"), (0.4, "last-query"), (0.1, own), (0.4, own),
    ]  # fmt: skip
    stream = client.get(f"/evaluations/{job['id']}/answers", params={"differs": True}).text
    assert [json.loads(line)["select"] for line in stream.split("\n")[:3]] == [None, "last-query", own]
    assert promoted(client, job).json()["kv"]["select"] == "last-query"
    point = {"method": "snapkv", "ratio": 0.4}
    assert promoted(client, job, **point, select=own).json()["kv"]["select"] == own
    assert "select" not in promoted(client, job, method="full").json()["kv"]
    missing = promoted(client, job, **point)
    assert_problem(missing, 422, "invalid_parameter", "last-query, window=6,pool=3")
    assert missing.json()["param"] == "select"
    assert client.get(f"/evaluations/{job['id']}/curve.svg").status_code == 200


def test_an_evaluation_of_before_selectors_had_snapkv(ask: Ask, client: TestClient, database: Database) -> None:
    job = ask().json()
    finish(database, job["id"])
    told = client.get(f"/evaluations/{job['id']}").json()
    with database.write() as session:
        row = session.get_one(Evaluation, job["id"])
        for one in (*row.result["points"], row.result["recommended"]):
            del one["select"]
        flag_modified(row, "result")
    assert client.get(f"/evaluations/{job['id']}").json() == told
    assert promoted(client, job).json()["kv"]["select"] == "snapkv"


def test_what_was_not_measured_is_not_promoted(client: TestClient, done: dict[str, Any]) -> None:
    for body, param in (
        ({"method": "sparsemm", "ratio": 0.1}, "method"),
        ({"method": "snapkv", "ratio": 0.2}, "ratio"),
        ({"method": "snapkv"}, "ratio"),
        ({"ratio": 0.1}, "method"),
        ({"select": "snapkv"}, "method"),
        ({"method": "snapkv", "ratio": 0.1, "select": "mixkv"}, "select"),
        ({"method": "snapkv", "ratio": 0.1, "select": "h2o"}, "select"),
        ({"policy": "full"}, "policy"),
        ({"policy": None}, "policy"),
        ({"name": "x"}, "name"),
    ):
        refused = promoted(client, done, **body)
        assert_problem(refused, 422, "invalid_parameter")
        assert refused.json()["param"] == param


def test_without_a_recommendation_a_point_must_be_named(ask: Ask, client: TestClient, database: Database) -> None:
    job = ask(margin=0.01).json()
    finish(database, job["id"])
    assert client.get(f"/evaluations/{job['id']}").json()["result"]["recommended"] is None
    assert_problem(promoted(client, job), 409, "nothing_recommended", "0.01")
    assert promoted(client, job, method="snapkv", ratio=0.4).status_code == 201


def test_a_policy_that_another_wrote_is_not_overwritten(client: TestClient, done: dict[str, Any]) -> None:
    assert_problem(promoted(client, done, {"If-Match": '"1"'}), 412, "policy_changed")
    assert promoted(client, done, {"If-None-Match": "*"}).status_code == 201
    assert_problem(promoted(client, done, {"If-None-Match": "*"}), 412, "policy_changed")
    assert promoted(client, done, {"If-Match": '"1"'}).json()["version"] == 2
