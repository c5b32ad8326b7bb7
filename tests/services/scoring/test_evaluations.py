"""Evaluations over HTTP: one test for each outcome."""

from __future__ import annotations

import json
import threading
import time
from io import BytesIO
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from headmap.evaluation.cases import make_cases
from headmap.evaluation.curve import make_curve
from headmap.evaluation.metrics import get_metric
from headmap.registry.datasets import add_dataset, remove_dataset
from headmap.registry.job_params import EVALUATION
from headmap.registry.jobs import cancel_job
from headmap.registry.map_file import add_map_file, parse_map_file
from headmap.registry.session import Database
from headmap.scoring.pages import make_page
from headmap.settings import DEMO_MODEL
from tests.services.scoring.conftest import Ask, add_map
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish
from tests.shared.jobs.fake_answers import fake_answer
from tests.shared.jobs.fakes import CountingBroker

NOBODY = "0" * 32


# ---- starting


def test_it_starts_with_202_its_place_and_its_shards(ask: Ask, client: TestClient, broker: CountingBroker) -> None:
    started = ask(ratios=[0.4, 0.1])
    job = started.json()
    assert (started.status_code, started.headers["location"]) == (202, f"/evaluations/{job['id']}")
    assert (job["state"], job["progress"], job["result"]) == ("queued", {"done": 0, "total": 10}, None)
    assert job["params"] == {
        "dataset": "synthetic",
        "dataset_checksum": None,
        "questions": 10,
        "methods": ["full", "snapkv"],
        "ratios": [0.1, 0.4],
        "selectors": ["snapkv"],
        "metric": "exact",
        "max_new_tokens": 32,
        "margin": 0.9,
        "seed": 0,
    }
    assert (job["map_id"], job["map_version"], job["map_revision"]) == (None, None, None)
    assert broker.sent == [(job["id"], number) for number in range(3)]
    assert client.get(started.headers["location"]).json() == job


def test_an_equal_request_gets_the_same_evaluation_with_200(ask: Ask) -> None:
    job = ask().json()
    again = ask(methods=["snapkv", "full"], ratios=[0.4, 0.1], metric="exact", seed=0.0, map=None, selectors=["snapkv"])
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


@pytest.mark.parametrize(
    "changed",
    [
        {"questions": 11}, {"seed": 1}, {"ratios": [0.1]}, {"methods": ["adakv"]}, {"metric": "anls"}, {"margin": 0.1},
        {"max_new_tokens": 9}, {"dataset": "forms"}, {"force": True}, {"selectors": ["last-query"]},
    ],
)  # fmt: skip
def test_another_request_gets_another_evaluation(ask: Ask, changed: dict[str, Any]) -> None:
    first, second = ask(), ask(**changed)
    assert (second.status_code, second.json()["id"] != first.json()["id"]) == (202, True)


def test_an_idempotency_key_is_honoured(client: TestClient) -> None:
    body = {"model": DEMO_MODEL, "dataset": "synthetic", "methods": ["snapkv"], "force": True}
    first, again = (client.post("/evaluations", json=body, headers={"Idempotency-Key": "one"}) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()["id"]) == (202, 200, again.json()["id"])
    other = client.post("/evaluations", json=body | {"seed": 3}, headers={"Idempotency-Key": "one"})
    assert_problem(other, 409, "idempotency_conflict", "one")


def test_profiles_and_evaluations_do_not_see_each_other(ask: Ask, client: TestClient, start: Ask) -> None:
    evaluation, profile = ask().json()["id"], start()["id"]
    assert [one["id"] for one in client.get("/evaluations").json()["items"]] == [evaluation]
    assert [one["id"] for one in client.get("/score").json()["items"]] == [profile]
    for place in (f"/score/{evaluation}", f"/evaluations/{profile}"):
        assert_problem(client.get(place), 404, "job_not_found")
        assert_problem(client.get(f"{place}/events"), 404, "job_not_found")
        assert_problem(client.delete(place), 404, "job_not_found")


def test_metric_and_answer_length_are_the_datasets_own(ask: Ask, client: TestClient) -> None:
    for fields, metric, most in (
        ({"dataset": "lmms-lab/DocVQA/DocVQA/validation"}, "anls", 32),
        ({"dataset": "echo840/OCRBench"}, "contains", 128),
        ({"dataset": "synthdog-en", "metric": "cer"}, "cer", 1024),
        ({"dataset": "me/my-pages", "metric": "vqa"}, "vqa", 32),
        ({"metric": "wer", "max_new_tokens": 64}, "wer", 64),
    ):
        params = ask(**fields).json()["params"]
        assert (params["metric"], params["max_new_tokens"]) == (metric, most)


def test_an_uploads_questions_are_counted(ask: Ask, database: Database) -> None:
    with database.write() as session:
        for name, questions in (("mine", 3), ("bare", 0)):
            add_dataset(session, name, [], pages=2, words=9, questions=questions, size=9, checksum=f"of {name}")
    job = ask(dataset="mine", questions=None).json()
    assert (job["params"]["questions"], job["params"]["dataset_checksum"]) == (3, "of mine")
    assert ask(dataset="mine", questions=None, metric="cer").json()["params"]["questions"] == 2
    assert_problem(ask(dataset="mine", questions=4), 422, "invalid_parameter", "questions", "has 3, got 4")
    assert_problem(ask(dataset="bare"), 422, "invalid_parameter", "dataset: 'bare' has no questions")


# ---- the map


def test_the_map_is_resolved_once(ask: Ask, client: TestClient) -> None:
    first = add_map(client, revision="r1")
    job = ask(methods=["sparsemm"]).json()
    assert (job["map_id"], job["map_version"], job["map_revision"]) == (first["id"], first["version"], "r1")
    second = add_map(client, promote=True)
    assert client.get(f"/evaluations/{job['id']}").json()["map_id"] == first["id"]
    assert ask(methods=["sparsemm"], map="default").json()["map_id"] == second["id"]
    assert ask(methods=["sparsemm"], map=first["id"]).json()["id"] == job["id"]


def test_maps_that_cannot_be_read_are_refused(ask: Ask, client: TestClient, database: Database) -> None:
    sparse = {"methods": ["sparsemm"]}
    assert_problem(ask(**sparse), 409, "no_map_for_model", "map", DEMO_MODEL)
    assert_problem(ask(**sparse, map="stable"), 404, "map_not_found", "map: 'stable'")
    assert_problem(ask(**sparse, map=NOBODY), 404, "map_not_found", "map")
    assert_problem(ask(**sparse, map=add_map(client, "other")["id"]), 409, "map_mismatch", "'other'")
    with database.write() as session:
        file = parse_map_file({"model": DEMO_MODEL, "num_kv_heads": 1, "scores": {"0-0": 1.0}})
        small = add_map_file(session, file, promote="auto", by=None)
    assert_problem(ask(**sparse, map=small), 409, "map_mismatch", "(1, 1, 1)")
    assert_problem(ask(map="default"), 422, "invalid_parameter", "map: none of the methods reads a map")


def test_a_map_is_held_until_the_evaluation_has_ended(ask: Ask, client: TestClient, database: Database) -> None:
    add_map(client)
    read = add_map(client)["id"]
    job_id = ask(methods=["sparsemm"], map=read).json()["id"]
    assert_problem(client.delete(f"/maps/{read}"), 409, "map_in_use", f"evaluation {job_id}")
    finish(database, job_id)
    assert client.delete(f"/maps/{read}").status_code == 204
    kept = client.get(f"/evaluations/{job_id}").json()
    assert (kept["state"], kept["map_id"], len(kept["result"]["points"])) == ("succeeded", read, 3)
    refused = client.post(f"/evaluations/{job_id}/promote", json={"policy": "documents"})
    assert_problem(refused, 404, "map_not_found", "kv.map")


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"dataset": None}, "dataset"),
        ({"dataset": "../pages"}, "dataset"),
        ({"dataset": "/srv/pages"}, "dataset"),
        ({"dataset": "synthdog-en"}, "dataset"),
        ({"questions": 0}, "questions"),
        ({"questions": 10_001}, "questions"),
        ({"questions": True}, "questions"),
        ({"methods": []}, "methods"),
        ({"methods": ["snapkv", "snapkv"]}, "methods"),
        ({"methods": "snapkv"}, "methods"),
        ({"ratios": []}, "ratios"),
        ({"ratios": [0.1, 0.1]}, "ratios"),
        ({"ratios": [0]}, "ratios.0"),
        ({"ratios": [20]}, "ratios.0"),
        ({"ratios": ["0.1"]}, "ratios.0"),
        ({"selectors": []}, "selectors"),
        ({"selectors": "snapkv"}, "selectors"),
        ({"selectors": ["h2o"]}, "selectors.0"),
        ({"selectors": ["mixkv", {"window": 8, "pool": 11, "mix": 1}]}, "selectors"),
        ({"selectors": ["snapkv", {"pool": 99}]}, "selectors.1.pool"),
        ({"selectors": [{"observe": "last", "window": 2}]}, "selectors.0.window"),
        ({"metric": "bleu"}, "metric"),
        ({"metric": "vqa"}, "metric"),
        ({"dataset": "me/my-pages"}, "metric"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"margin": 0}, "margin"),
        ({"margin": 1.5}, "margin"),
        ({"seed": -1}, "seed"),
        ({"map": "a b"}, "map"),
        ({"force": "yes"}, "force"),
        ({"pages": 3}, "pages"),
    ],
)
def test_every_bad_field_is_named(refusing: TestClient, fields: dict[str, Any], param: str) -> None:
    body = {"model": DEMO_MODEL, "dataset": "synthetic", "methods": ["snapkv"], **fields}
    refused = refusing.post("/evaluations", json=body)
    assert_problem(refused, 422, "invalid_parameter")
    assert refused.json()["param"] == param


def test_what_is_not_here_is_named(refusing: TestClient) -> None:
    body = {"model": DEMO_MODEL, "dataset": "synthetic", "methods": ["snapkv"]}
    assert_problem(refusing.post("/evaluations", json=body | {"model": "no/such"}), 404, "model_not_found", "no/such")
    assert_problem(refusing.post("/evaluations", json=body | {"dataset": "none"}), 404, "dataset_not_found", "none")
    assert_problem(refusing.post("/evaluations", json=body | {"methods": ["h2o"]}), 422, "unknown_method", "h2o")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("GET", "/events"), ("GET", "/answers"), ("GET", "/curve.svg"), ("GET", "/curve.png"),
        ("DELETE", ""), ("POST", "/promote"),
    ],
)  # fmt: skip
def test_an_unknown_evaluation_is_404(refusing: TestClient, method: str, path: str) -> None:
    body = {"policy": "documents"} if method == "POST" else None
    for job_id in (NOBODY, "x"):
        assert_problem(refusing.request(method, f"/evaluations/{job_id}{path}", json=body), 404, "job_not_found")


# ---- following, listing, cancelling


def test_events_tell_each_change_and_end_with_the_result(ask: Ask, client: TestClient, database: Database) -> None:
    job = ask().json()

    def work() -> None:
        time.sleep(0.4)
        finish(database, job["id"])

    worker = threading.Thread(target=work)
    worker.start()
    with client.stream("GET", f"/evaluations/{job['id']}/events") as response:
        seen = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
    worker.join()
    assert seen[0] == job
    assert seen[-1] == client.get(f"/evaluations/{job['id']}").json()
    assert seen[-1]["result"]["points"][0]["method"] == "full"
    again = client.get(f"/evaluations/{job['id']}/events", headers={"Last-Event-ID": "succeeded"})
    assert again.status_code == 204


def test_evaluations_are_listed_by_model_state_and_page(ask: Ask, client: TestClient) -> None:
    ids = [ask(seed=seed).json()["id"] for seed in range(3)]
    client.delete(f"/evaluations/{ids[0]}")
    first = client.get("/evaluations", params={"limit": 2}).json()
    rest = client.get("/evaluations", params={"cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in first["items"] + rest["items"]] == ids[::-1]
    cancelled = client.get("/evaluations", params={"model": DEMO_MODEL, "state": "cancelled"}).json()
    assert [one["id"] for one in cancelled["items"]] == [ids[0]]
    assert client.get("/evaluations", params={"model": "other"}).json()["items"] == []
    assert client.get("/evaluations", params={"state": "odd"}).status_code == 422


def test_cancel_answers_202_then_409(ask: Ask, client: TestClient) -> None:
    place = f"/evaluations/{ask().json()['id']}"
    cancelled = client.delete(place)
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert_problem(client.delete(place), 409, "job_ended", "cancelled")
    for path in ("/answers", "/curve.svg"):
        assert_problem(client.get(f"{place}{path}"), 409, "job_not_succeeded", "cancelled")
    assert_problem(client.post(f"{place}/promote", json={"policy": "p"}), 409, "job_not_succeeded", "cancelled")
    assert ask().json()["state"] == "queued", "an equal request begins anew"


def test_open_evaluations_count_against_the_callers_limits(ask: Ask, client: TestClient) -> None:
    state: Any = client.app
    scoring = state.state.scoring
    limited = scoring.settings.model_copy(update={"key_open_jobs": 1})
    object.__setattr__(scoring, "settings", limited)
    ask()
    assert_problem(ask(seed=1), 429, "too_many_jobs")


# ---- the result


def test_the_result_is_the_curve_of_all_answers(done: dict[str, Any]) -> None:
    cases = make_cases(["snapkv"], [0.1, 0.4], ["snapkv"])
    curve = make_curve([fake_answer(number, case) for number in range(10) for case in cases], get_metric("exact"), 0.9)
    expected = json.loads(json.dumps(curve.to_json()))
    assert done["result"] == {"points": expected["points"], "recommended": expected["recommended"]}
    assert done["progress"] == {"done": 10, "total": 10}
    assert done["result"]["recommended"] == {"method": "snapkv", "ratio": 0.1, "select": "snapkv"}


def test_every_answer_can_be_read_and_those_that_differ_alone(client: TestClient, done: dict[str, Any]) -> None:
    place = f"/evaluations/{done['id']}/answers"
    answer = client.get(place)
    assert answer.headers["content-type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in answer.text.split("\n")[:-1]]
    cases = make_cases(["snapkv"], [0.1, 0.4], ["snapkv"])
    assert rows == [
        json.loads(json.dumps(fake_answer(number, case).to_json())) for number in range(10) for case in cases
    ]
    differing = [json.loads(line) for line in client.get(place, params={"differs": True}).text.split("\n")[:-1]]
    assert [(row["question_id"], row["method"], row["ratio"]) for row in differing] == [
        (f"{number}-0", method, ratio) for number in (1, 4, 7) for method, ratio in (("full", 1), ("snapkv", 0.1))
    ]


def test_the_curve_is_a_picture(client: TestClient, done: dict[str, Any]) -> None:
    for form, media, begin in (("svg", "image/svg+xml", b"<?xml"), ("png", "image/png", b"\x89PNG")):
        answer = client.get(f"/evaluations/{done['id']}/curve.{form}")
        assert (answer.headers["content-type"], answer.content[: len(begin)]) == (media, begin)


def test_the_page_of_a_question_is_a_picture(client: TestClient, done: dict[str, Any]) -> None:
    place = f"/evaluations/{done['id']}/pictures"
    answer = client.get(f"{place}/2-0")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    page = make_page(done["params"]["seed"], 2)
    with Image.open(BytesIO(answer.content)) as picture:
        assert picture.size == page.image.size
        assert picture.convert("RGB").tobytes() == page.image.convert("RGB").tobytes()
    assert client.get(f"{place}/../2").status_code in (404, 422)
    assert_problem(client.get(f"{place}/two"), 422, "invalid_parameter", "question_id")
    assert_problem(client.get(f"/evaluations/{NOBODY}/pictures/2-0"), 404, "job_not_found", NOBODY)


def test_the_page_of_a_removed_upload_is_gone(client: TestClient, ask: Ask, database: Database) -> None:
    with database.write() as session:
        add_dataset(session, "own", [], pages=1, words=1, questions=1, size=1, checksum="c" * 64)
    job = ask(dataset="own", questions=1).json()
    with database.write() as session:
        cancel_job(session, job["id"], EVALUATION)
        remove_dataset(session, "own")
    assert_problem(client.get(f"/evaluations/{job['id']}/pictures/0-0"), 404, "page_not_found", "own")
