"""Jobs over HTTP: one test an outcome."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL
from headmap.settings_groups.key import SettingsKey
from services.scoring.app import create_app
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish
from tests.shared.jobs.fakes import CountingBroker

Start = Callable[..., dict[str, Any]]
NOBODY = "0" * 32


def test_start_answers_202_with_the_job_and_its_place(client: TestClient, broker: CountingBroker) -> None:
    response = client.post("/score", json={"model": DEMO_MODEL, "pages": 10})
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/score/{job['id']}"
    assert job["state"] == "queued"
    assert job["progress"] == {"done": 0, "total": 10}
    assert job["params"] == {
        "kind": "visual",
        "dataset": "synthetic",
        "pages": 10,
        "rule": "aligned",
        "seed": 0,
        "max_new_tokens": 1024,
        "promote": "auto",
        "dataset_checksum": None,
    }
    assert job["revision"].startswith("sha256:")
    assert (job["map_id"], job["error"], job["started_at"], job["finished_at"]) == (None, None, None, None)
    assert broker.sent == [(job["id"], number) for number in range(3)]
    assert client.get(response.headers["location"]).json() == job


def test_an_equal_request_answers_200_with_the_same_job(client: TestClient, start: Start) -> None:
    job = start()
    response = client.post("/score", json={"model": DEMO_MODEL, "pages": 10, "seed": 0, "revision": job["revision"]})
    assert response.status_code == 200
    assert response.headers["location"] == f"/score/{job['id']}"
    assert response.json()["id"] == job["id"]


@pytest.mark.parametrize(
    "changed", [{"pages": 11}, {"seed": 1}, {"rule": "paper"}, {"max_new_tokens": 9}, {"kind": "text-retrieval"}]
)
def test_another_request_gets_another_job(start: Start, changed: dict[str, Any]) -> None:
    assert start()["id"] != start(**changed)["id"]


def test_a_profile_of_text_retrieval_tells_its_kind_and_its_map_is_found_by_it(
    client: TestClient, start: Start, database: Database
) -> None:
    job = start(kind="text-retrieval")
    assert (job["params"]["kind"], start(kind="text-retrieval")["id"]) == ("text-retrieval", job["id"])
    finish(database, job["id"])
    map_id = client.get(f"/score/{job['id']}").json()["map_id"]
    found = client.get("/maps", params={"kind": "text-retrieval"}).json()["items"]
    assert [(one["id"], one["kind"], one["aliases"]) for one in found] == [(map_id, "text-retrieval", [])]
    assert_problem(client.put(f"/maps/{map_id}/aliases/stable"), 409, "map_mismatch", "text-retrieval")
    assert client.get(f"/maps/{map_id}/export").json()["kind"] == "text-retrieval"


def test_a_job_that_reads_on_until_the_map_is_steady(client: TestClient, start: Start, database: Database) -> None:
    auto = {"pages": "auto", "min_pages": 6, "max_pages": 30, "stable_overlap": 1}
    job = start(**auto)
    assert auto.items() <= job["params"].items()
    assert job["progress"] == {"done": 0, "total": 6}
    assert start(**auto)["id"] == job["id"]
    assert start(**auto | {"stable_overlap": 0.5})["id"] != job["id"]
    finish(database, job["id"])
    done = client.get(f"/score/{job['id']}").json()
    assert done["state"] == "succeeded"
    found = client.get(f"/maps/{done['map_id']}").json()
    assert found["pages"] == done["progress"]["total"] == done["progress"]["done"]
    assert found["halves_top5pct_overlap"] == 1 or found["pages"] == 30
    assert start(**auto)["id"] == job["id"]  # stands for the request although its pages have grown


def test_auto_has_defaults(start: Start) -> None:
    params = start(pages="auto")["params"]
    assert {"pages": "auto", "min_pages": 64, "max_pages": 1000, "stable_overlap": 0.9}.items() <= params.items()
    params = start(pages="auto", max_pages=10)["params"]
    assert (params["min_pages"], params["max_pages"]) == (10, 10)


def test_force_starts_a_new_job(start: Start) -> None:
    assert start()["id"] != start(force=True)["id"]


def test_a_succeeded_job_stands_for_equal_requests_with_its_map(
    client: TestClient, start: Start, database: Database
) -> None:
    job = start()
    finish(database, job["id"])
    response = client.post("/score", json={"model": DEMO_MODEL, "pages": 10})
    assert response.status_code == 200
    done = response.json()
    assert (done["id"], done["state"], done["progress"]) == (job["id"], "succeeded", {"done": 10, "total": 10})
    found = client.get(f"/maps/{done['map_id']}").json()
    assert (found["job_id"], found["model"], found["pages"]) == (job["id"], DEMO_MODEL, 10)
    resolved = client.get("/maps/resolve", params={"model": DEMO_MODEL, "revision": job["revision"]}).json()
    assert (resolved["id"], resolved["match"]) == (done["map_id"], "exact")


def test_an_idempotency_key_is_honoured(client: TestClient) -> None:
    body = {"model": DEMO_MODEL, "pages": 10, "force": True}
    first = client.post("/score", json=body, headers={"Idempotency-Key": "one"})
    again = client.post("/score", json=body, headers={"Idempotency-Key": "one"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/score", json={**body, "pages": 11}, headers={"Idempotency-Key": "one"})
    assert_problem(other, 409, "idempotency_conflict", "one")


def test_an_idempotency_key_is_its_api_keys_own(app: FastAPI, migrated: Any) -> None:
    keyed = app.state.scoring.settings.model_copy(update={"api_keys": (SettingsKey("one"), SettingsKey("two"))})
    body = {"model": DEMO_MODEL, "pages": 10, "force": True}
    with TestClient(create_app(keyed, broker=CountingBroker())) as client:

        def start(key: str, pages: int) -> Any:
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "same"}
            return client.post("/score", json={**body, "pages": pages}, headers=headers)

        first, other, again = start("one", 10), start("two", 11), start("one", 10)
        assert (first.status_code, other.status_code, again.status_code) == (202, 202, 200)
        assert first.json()["id"] == again.json()["id"] != other.json()["id"]
        assert_problem(start("one", 11), 409, "idempotency_conflict", "same")


def test_a_number_is_whole_however_it_is_written(client: TestClient, start: Start) -> None:
    body = f'{{"model": "{DEMO_MODEL}", "pages": 1e1, "seed": 0.0}}'
    response = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["id"] == start(pages=10)["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_a_bad_idempotency_key_is_refused(refusing: TestClient, key: str) -> None:
    response = refusing.post("/score", json={"model": DEMO_MODEL}, headers={"Idempotency-Key": key})
    assert_problem(response, 422, "invalid_parameter", "idempotency-key")


def test_an_unknown_model_is_not_found(refusing: TestClient) -> None:
    assert_problem(refusing.post("/score", json={"model": "no/such"}), 404, "model_not_found", "no/such")


def test_an_unknown_revision_is_not_found(refusing: TestClient) -> None:
    response = refusing.post("/score", json={"model": DEMO_MODEL, "revision": "v9"})
    assert_problem(response, 404, "model_not_found", "v9")


def test_an_unknown_dataset_is_not_found(refusing: TestClient) -> None:
    response = refusing.post("/score", json={"model": DEMO_MODEL, "dataset": "no-such"})
    assert_problem(response, 404, "dataset_not_found", "no-such", "synthetic")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"pages": 0}, "pages"),
        ({"pages": 100_001}, "pages"),
        ({"pages": "10"}, "pages"),
        ({"pages": 1.5}, "pages"),
        ({"pages": True}, "pages"),
        ({"pages": 10**400}, "pages"),
        ({"pages": "all"}, "pages"),
        ({"pages": 10, "min_pages": 5}, "min_pages"),
        ({"max_pages": 5}, "max_pages"),
        ({"stable_overlap": 0.5}, "stable_overlap"),
        ({"pages": "auto", "min_pages": 1}, "min_pages"),
        ({"pages": "auto", "min_pages": 9, "max_pages": 8}, "max_pages"),
        ({"pages": "auto", "max_pages": 100_001}, "max_pages"),
        ({"pages": "auto", "stable_overlap": 1.5}, "stable_overlap"),
        ({"pages": "auto", "stable_overlap": "0.5"}, "stable_overlap"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"rule": "other"}, "rule"),
        ({"kind": "audio"}, "kind"),
        ({"kind": "text-retrieval", "promote": True}, "promote"),
        ({"dataset": ""}, "dataset"),
        ({"dataset": "../pages"}, "dataset"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"force": "yes"}, "force"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"model": "a\x00b"}, "model"),
        ({"model": ["x"]}, "model"),
        ({"revision": ""}, "revision"),
        ({"page": 3}, "page: unknown field"),
        ({"\ud800": 3}, "body"),
        ({"model": "\ud800"}, "body"),
    ],
)
def test_every_bad_field_is_named(refusing: TestClient, fields: dict[str, Any], named: str) -> None:
    body = json.dumps({"model": DEMO_MODEL, **fields})
    response = refusing.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "invalid_parameter", named)


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"", b'{"model": NaN}', b"\xff", b"[" * 5000])
def test_what_is_no_request_is_refused(refusing: TestClient, body: bytes) -> None:
    response = refusing.post("/score", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 413, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_huge_body_is_refused(refusing: TestClient) -> None:
    body = json.dumps({"model": "x" * 300_000})
    assert_problem(refusing.post("/score", content=body), 413, "payload_too_large", "200000")
    chunks = (b"x" * 50_000 for _ in range(6))
    response = refusing.post("/score", content=chunks, headers={"Content-Type": "application/json"})
    assert_problem(response, 413, "payload_too_large", "200000")


def test_a_broker_that_is_away_delays_a_job_and_fails_nothing(client: TestClient, broker: CountingBroker) -> None:
    broker.away = True
    assert client.post("/score", json={"model": DEMO_MODEL}).status_code == 202


@pytest.mark.parametrize("job_id", [NOBODY, "x", "%00", "é"])
@pytest.mark.parametrize("path", ["/score/{}", "/score/{}/events"])
def test_jobs_that_do_not_exist_are_not_found(refusing: TestClient, path: str, job_id: str) -> None:
    assert_problem(refusing.get(path.format(job_id)), 404, "job_not_found")


def test_cancel_answers_202_then_409(client: TestClient, start: Start) -> None:
    job = start()
    response = client.delete(f"/score/{job['id']}")
    assert response.status_code == 202
    assert response.json()["state"] == "cancelled"
    assert_problem(client.delete(f"/score/{job['id']}"), 409, "job_ended", job["id"], "cancelled")
    assert_problem(client.delete(f"/score/{NOBODY}"), 404, "job_not_found")


def test_jobs_are_listed_newest_first_in_pages(client: TestClient, start: Start) -> None:
    ids = [start(seed=seed)["id"] for seed in range(5)]
    seen, cursor = [], None
    while True:
        page = client.get("/score", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_lists_are_filtered(client: TestClient, start: Start) -> None:
    cancelled, queued = start(seed=0), start(seed=1)
    client.delete(f"/score/{cancelled['id']}")

    def ids(**query: str) -> list[str]:
        return [job["id"] for job in client.get("/score", params=query).json()["items"]]

    assert ids(state="queued") == [queued["id"]]
    assert ids(state="cancelled", model=DEMO_MODEL) == [cancelled["id"]]
    assert ids(model="other") == []


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 201}, {"limit": "x"}, {"state": "odd"}, {"cursor": "x"}, {"model": "\x00"}]
)
def test_bad_list_queries_are_refused(refusing: TestClient, query: dict[str, Any]) -> None:
    assert_problem(refusing.get("/score", params=query), 422, "invalid_parameter", next(iter(query)))


def events(client: TestClient, job_id: str) -> list[dict[str, Any]]:
    with client.stream("GET", f"/score/{job_id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]


def test_events_tell_each_change_and_end_with_the_terminal_state(
    client: TestClient, start: Start, database: Database
) -> None:
    job = start()

    def work() -> None:
        time.sleep(0.4)
        finish(database, job["id"])

    worker = threading.Thread(target=work)
    worker.start()
    seen = events(client, job["id"])
    worker.join()
    assert seen[0] == job
    assert seen[-1] == client.get(f"/score/{job['id']}").json()
    assert seen[-1]["state"] == "succeeded"
    assert all(before != after for before, after in itertools.pairwise(seen))


def test_events_of_an_ended_job_come_once_and_a_returning_client_is_told_to_stay_away(
    client: TestClient, start: Start
) -> None:
    job = start()
    client.delete(f"/score/{job['id']}")
    assert [event["state"] for event in events(client, job["id"])] == ["cancelled"]
    again = client.get(f"/score/{job['id']}/events", headers={"Last-Event-ID": "cancelled"})
    assert again.status_code == 204


def test_the_jobs_that_a_caller_has_open_are_bounded(app: FastAPI, client: TestClient, start: Start) -> None:
    limited = app.state.scoring.settings.model_copy(update={"key_open_jobs": 2, "key_open_pages": 100})
    app.state.scoring = replace(app.state.scoring, settings=limited)
    first = start(seed=1)
    body = {"model": DEMO_MODEL, "pages": 91}
    refused = client.post("/score", json=body)
    assert_problem(refused, 429, "too_many_jobs", "pages", "without a key", "have 10, with 91 more than 100")
    assert int(refused.headers["retry-after"]) >= 1
    auto = {"model": DEMO_MODEL, "pages": "auto", "min_pages": 2, "max_pages": 91}
    assert_problem(client.post("/score", json=auto), 429, "too_many_jobs", "with 91 more")
    start(seed=2)
    assert_problem(client.post("/score", json=body | {"pages": 1}), 429, "too_many_jobs", "2 jobs without a key")
    assert start(seed=1) == first, "what stands for an equal request is found all the same"
    client.delete(f"/score/{first['id']}")
    start(seed=3)


def test_a_keys_jobs_are_counted_apart_and_everybodys_together(app: FastAPI, migrated: Any) -> None:
    limited = app.state.scoring.settings.model_copy(
        update={"api_keys": (SettingsKey("one" * 9), SettingsKey("two" * 9)), "key_open_jobs": 2, "max_open_jobs": 3}
    )
    with TestClient(create_app(limited, broker=CountingBroker())) as client:
        found = [
            client.post(
                "/score",
                json={"model": DEMO_MODEL, "pages": 1, "seed": seed},
                headers={"Authorization": f"Bearer {key * 9}"},
            )
            for seed, key in enumerate(("one", "one", "one", "two", "two"))
        ]
    assert [answer.status_code for answer in found] == [202, 202, 429, 202, 429]
    assert "of key" in found[2].json()["detail"]
    assert "of all callers" in found[4].json()["detail"]


def test_any_number_of_followers_costs_one_look_at_a_time(app: FastAPI, client: TestClient, start: Start) -> None:
    job, state = start(), app.state.scoring
    looks = []
    event.listen(state.database.engine, "begin", lambda connection: looks.append(connection))
    with ThreadPoolExecutor(20) as pool:
        followers = [pool.submit(events, client, job["id"]) for _ in range(20)]
        wait_until(lambda: len(state.followers._all) == 20)
        looks.clear()
        time.sleep(1.5)
        asked = len(looks)
        client.delete(f"/score/{job['id']}")
        assert {follower.result()[-1]["state"] for follower in followers} == {"cancelled"}
    assert asked <= 10
    assert state.followers._all == set()


def test_followers_beyond_those_there_may_be_are_refused(app: FastAPI, client: TestClient, start: Start) -> None:
    limited = app.state.scoring.settings.model_copy(update={"max_event_streams": 1})
    app.state.scoring = replace(app.state.scoring, settings=limited)
    job = start()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(events, client, job["id"])
        wait_until(lambda: len(app.state.scoring.followers._all) == 1)
        assert_problem(client.get(f"/score/{job['id']}/events"), 429, "queue_full", "follow")
        client.delete(f"/score/{job['id']}")
        first.result()
    assert events(client, job["id"])[-1]["state"] == "cancelled"


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
