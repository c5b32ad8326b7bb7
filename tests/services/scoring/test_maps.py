"""Maps over HTTP: one test an outcome."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from headmap.models import find_model
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish

Upload = Callable[..., dict[str, Any]]
NOBODY = "0" * 32


def test_import_answers_201_with_the_map(client: TestClient) -> None:
    scores = {"0-0": [1, 3], "0-1": 6}
    response = client.post("/maps", json={"model": "a/b", "revision": "r", "num_kv_heads": 1, "scores": scores})
    assert response.status_code == 201
    found = response.json()
    assert response.headers["location"] == f"/maps/{found['id']}"
    expected = {"model": "a/b", "revision": "r", "version": 1, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    assert expected.items() <= found.items()
    assert found["aliases"] == ["default"]
    assert (found["dataset"], found["job_id"], found["pages"]) == ("import", None, None)
    assert client.get(f"/maps/{found['id']}").json() == found
    assert client.get(f"/maps/{found['id']}/scores").json() == [[0.25, 0.75]]


def test_a_body_may_begin_with_a_byte_order_mark(client: TestClient) -> None:
    body = json.dumps({"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": 1}}).encode()
    headers = {"Content-Type": "application/json"}
    assert client.post("/maps", content=codecs.BOM_UTF8 + body, headers=headers).status_code == 201


def test_a_map_travels_as_the_public_file_and_keeps_its_checksum(client: TestClient, upload: Upload) -> None:
    first = upload()
    scores = client.get(f"/maps/{first['id']}/scores", params={"format": "sparsemm"}).json()
    assert set(scores) == {f"{layer}-{head}" for layer in range(3) for head in range(4)}
    second = upload(scores=scores)
    assert (second["version"], second["checksum"]) == (2, first["checksum"])


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"scores": {"0-0": -1}}, "invalid_scores", "0-0"),
        ({"scores": {"0-0": 1, "1-1": 1}}, "invalid_scores", "0-1"),
        ({"scores": {"zero": 1}}, "invalid_scores", "zero"),
        ({"scores": {"0-0": "1"}}, "invalid_scores", "0-0"),
        ({"scores": {"0-0": [1, None]}}, "invalid_scores", "0-0"),
        ({"scores": {"0-0": 10**400}}, "invalid_scores", "0-0"),
        ({"scores": {"0-0": 0}}, "invalid_scores", "every score is 0"),
        ({"scores": {}}, "invalid_scores", "at least one head"),
        ({"scores": [1]}, "invalid_parameter", "scores"),
        ({"scores": None}, "invalid_parameter", "scores"),
        ({"num_kv_heads": 3}, "invalid_scores", "num_kv_heads"),
        ({"num_kv_heads": 0}, "invalid_parameter", "num_kv_heads"),
        ({"num_kv_heads": "1"}, "invalid_parameter", "num_kv_heads"),
        ({"model": "\x00"}, "invalid_parameter", "model"),
        ({"name": "x"}, "invalid_parameter", "name: unknown field"),
    ],
)
def test_bad_imports_are_refused(refusing: TestClient, fields: dict[str, Any], code: str, named: str) -> None:
    body = {"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": 1, "0-1": 2}, **fields}
    response = refusing.post("/maps", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert_problem(response, 422, code, named)


def test_scores_that_are_no_finite_numbers_are_refused(refusing: TestClient) -> None:
    text = '{"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": %s}}'
    for value in ("NaN", "Infinity", "1e999", "[NaN]"):
        response = refusing.post("/maps", content=text % value, headers={"Content-Type": "application/json"})
        assert_problem(response, 422, "invalid_scores", "0-0")


def test_a_map_must_fit_a_model_that_is_here(client: TestClient, settings: Settings) -> None:
    body = {"model": DEMO_MODEL, "num_kv_heads": 1, "scores": {"0-0": 1}}
    assert_problem(client.post("/maps", json=body), 409, "map_mismatch", "1 layers x 1 heads", DEMO_MODEL)
    info = find_model(DEMO_MODEL, settings)
    fitting = {f"{la}-{h}": 1 for la in range(info.num_layers) for h in range(info.num_heads)}
    response = client.post("/maps", json={**body, "num_kv_heads": info.num_kv_heads, "scores": fitting})
    assert response.status_code == 201
    assert response.json()["architecture"] == info.architecture


def test_maps_are_listed_newest_first(client: TestClient, upload: Upload) -> None:
    ours, other = [upload(seed)["id"] for seed in range(3)], upload(model="other")["id"]
    everything = client.get("/maps").json()
    assert [found["id"] for found in everything["items"]] == [other, *ours[::-1]]
    first = client.get("/maps", params={"model": "some/model", "limit": 2}).json()
    rest = client.get("/maps", params={"model": "some/model", "cursor": first["next_cursor"]}).json()
    assert [found["id"] for found in first["items"] + rest["items"]] == ours[::-1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("map_id", [NOBODY, "x", "%00"])
@pytest.mark.parametrize(
    "path", ["", "/scores", "/scores?format=standard_errors", "/heads", "/heatmap.svg", "/budgets"]
)
def test_maps_that_do_not_exist_are_not_found(refusing: TestClient, path: str, map_id: str) -> None:
    assert_problem(refusing.get(f"/maps/{map_id}{path}"), 404, "map_not_found")


def test_scores_sum_to_one(client: TestClient, upload: Upload) -> None:
    matrix = np.array(client.get(f"/maps/{upload()['id']}/scores?format=matrix").json())
    assert matrix.shape == (3, 4)
    assert np.isclose(matrix.sum(), 1)


def test_other_formats_are_refused(client: TestClient, upload: Upload) -> None:
    map_id = upload()["id"]
    assert_problem(client.get(f"/maps/{map_id}/scores?format=csv"), 422, "invalid_parameter", "format", "csv")
    assert_problem(client.get(f"/maps/{map_id}/scores?format=standard_errors"), 422, "invalid_parameter", "format")


def test_heads_come_highest_first(client: TestClient, upload: Upload) -> None:
    map_id = upload()["id"]
    answer = client.get(f"/maps/{map_id}/heads", params={"limit": 5}).json()
    matrix = np.array(client.get(f"/maps/{map_id}/scores").json())
    assert answer["total"] == 12
    assert [head["rank"] for head in answer["items"]] == [1, 2, 3, 4, 5]
    assert [head["score"] for head in answer["items"]] == sorted(matrix.ravel().tolist())[:-6:-1]
    for head in answer["items"]:
        assert head["score"] == matrix[head["layer"], head["head"]]
        assert head["kv_head"] == head["head"] // 2
        assert (head["standard_error"], head["low"], head["high"]) == (None, None, None)


def test_heads_of_a_profile_have_confidence_intervals(
    client: TestClient, start: Callable[..., dict[str, Any]], database: Database
) -> None:
    job = start()
    finish(database, job["id"])
    map_id = client.get(f"/score/{job['id']}").json()["map_id"]
    errors = client.get(f"/maps/{map_id}/scores?format=standard_errors").json()
    for head in client.get(f"/maps/{map_id}/heads").json()["items"]:
        error = errors[head["layer"]][head["head"]]
        assert head["standard_error"] == error > 0
        assert head["low"] == pytest.approx(max(0, head["score"] - 1.96 * error), abs=1e-4)
        assert head["high"] == pytest.approx(head["score"] + 1.96 * error, abs=1e-4)


def test_budgets_are_exact_by_default(client: TestClient, upload: Upload) -> None:
    found = client.get(f"/maps/{upload()['id']}/budgets", params={"budget": 100, "prompt_tokens": 120}).json()
    budgets = np.array(found["budgets"])
    assert budgets.shape == (3, 2)
    assert budgets.sum() == found["total"] == found["kept_tokens"] == 600
    assert budgets.max() <= 120
    assert (found["window"], found["keep_recent"]) == (8, 8)
    assert "bytes_per_token_per_head" not in found


def test_paper_budgets_are_the_formulas_and_tell_what_is_kept(client: TestClient, upload: Upload) -> None:
    query = {"budget": 100, "prompt_tokens": 120, "allocation": "paper", "window": 10, "uniform": 0.2}
    map_id = upload()["id"]
    found = client.get(f"/maps/{map_id}/budgets", params=query).json()
    scores = np.array(client.get(f"/maps/{map_id}/scores").json()).reshape(3, 2, 2).sum(-1)
    expected = [[round(score * (90 - 18) * 6 + 18) + 10 for score in row] for row in scores.tolist()]
    assert found["budgets"] == expected
    assert found["total"] == np.sum(expected)
    assert found["kept_tokens"] == np.minimum(expected, 120).sum() < found["total"]


@pytest.mark.parametrize(("budget", "recent"), [(1, 0), (5, 2), (15, 7), (16, 8), (1000, 8)])
def test_as_many_recent_tokens_are_kept_as_requests_keep(
    refusing: TestClient, refusing_map: str, budget: int, recent: int
) -> None:
    found = refusing.get(f"/maps/{refusing_map}/budgets", params={"budget": budget})
    assert found.status_code == 200, found.text
    assert (found.json()["window"], found.json()["keep_recent"]) == (8, recent)


@pytest.mark.parametrize(
    ("query", "window", "recent"),
    [
        ({"select": "snapkv"}, 32, 32),
        ({"select": "last-query"}, 1, 8),
        ({"window": 10}, 10, 10),
        ({"window": 10, "select": "mixkv"}, 8, 10),
        ({"keep_recent": 2}, 8, 2),
        ({"keep_recent": 2, "window": 200}, 200, 2),
    ],
)
def test_how_many_observe_and_how_many_are_kept_are_two_numbers(
    refusing: TestClient, refusing_map: str, query: dict[str, Any], window: int, recent: int
) -> None:
    asked = {"budget": 100, "prompt_tokens": 300, **query}
    found = refusing.get(f"/maps/{refusing_map}/budgets", params=asked).json()
    assert (found["window"], found["keep_recent"]) == (window, recent)


def test_bytes_are_told_where_the_model_is_here(client: TestClient, settings: Settings) -> None:
    info = find_model(DEMO_MODEL, settings)
    scores = {f"{la}-{h}": 1 for la in range(info.num_layers) for h in range(info.num_heads)}
    body = {"model": DEMO_MODEL, "num_kv_heads": info.num_kv_heads, "scores": scores}
    map_id = client.post("/maps", json=body).json()["id"]
    config = json.loads((info.folder / "config.json").read_text())
    text = config.get("text_config", config)
    dtype = text.get("dtype") or config.get("dtype") or config.get("torch_dtype")
    size = {"bfloat16": 2, "float16": 2, "float32": 4}[dtype]
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    assert client.get(f"/maps/{map_id}/budgets").json()["bytes_per_token_per_head"] == 2 * head * size


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ({"budget": 0}, "invalid_parameter", "budget"),
        ({"budget": 1_000_001}, "invalid_parameter", "budget"),
        ({"budget": "many"}, "invalid_parameter", "budget"),
        ({"prompt_tokens": 0}, "invalid_parameter", "prompt_tokens"),
        ({"prompt_tokens": 10**30}, "invalid_parameter", "prompt_tokens"),
        ({"window": -1}, "invalid_parameter", "window"),
        ({"window": 10, "budget": 10}, "budget_too_small", "window"),
        ({"keep_recent": 10, "budget": 10}, "budget_too_small", "keep_recent"),
        ({"keep_recent": -1}, "invalid_parameter", "keep_recent"),
        ({"select": "best"}, "invalid_parameter", "select"),
        ({"uniform": 1.1}, "invalid_parameter", "uniform"),
        ({"uniform": "nan"}, "invalid_parameter", "uniform"),
        ({"allocation": "other"}, "invalid_parameter", "allocation"),
    ],
)
def test_bad_budgets_are_refused(
    refusing: TestClient, refusing_map: str, query: dict[str, Any], code: str, named: str
) -> None:
    assert_problem(refusing.get(f"/maps/{refusing_map}/budgets", params=query), 422, code, named)


def test_the_largest_budgets_do_not_overflow(refusing: TestClient, refusing_map: str) -> None:
    for allocation in ("exact", "paper"):
        query = {"budget": 1_000_000, "prompt_tokens": 10_000_000, "allocation": allocation}
        assert refusing.get(f"/maps/{refusing_map}/budgets", params=query).status_code == 200


def test_compare(client: TestClient, upload: Upload) -> None:
    one, two = upload(0)["id"], upload(5)["id"]
    same = client.get(f"/maps/{one}/compare/{one}").json()
    assert same["spearman"] == pytest.approx(1)
    assert (same["top5pct_overlap"], same["total_variation"]) == (1, 0)
    assert client.get(f"/maps/{one}/compare/{two}").json()["total_variation"] > 0
    assert_problem(client.get(f"/maps/{one}/compare/{NOBODY}"), 404, "map_not_found")
    small = upload(scores={"0-0": 1, "0-1": 2})["id"]
    assert_problem(client.get(f"/maps/{one}/compare/{small}"), 422, "invalid_scores", "shapes")


def test_aliases_move(client: TestClient, upload: Upload) -> None:
    one, two = upload(0)["id"], upload(1)["id"]
    assert client.put(f"/maps/{one}/aliases/stable").json()["aliases"] == ["default", "stable"]
    assert client.put(f"/maps/{two}/aliases/stable").json()["aliases"] == ["stable"]
    assert client.put(f"/maps/{two}/aliases/default").json()["aliases"] == ["default", "stable"]
    assert client.get(f"/maps/{one}").json()["aliases"] == []
    assert_problem(client.put(f"/maps/{NOBODY}/aliases/stable"), 404, "map_not_found")
    assert_problem(client.put(f"/maps/{one}/aliases/a%20b"), 422, "invalid_parameter", "alias")


def test_resolve(client: TestClient, upload: Upload) -> None:
    one = upload(0, revision="r1")["id"]

    def ask(**query: str) -> Any:
        return client.get("/maps/resolve", params={"model": "some/model", **query})

    assert (ask(revision="r1").json()["id"], ask(revision="r1").json()["match"]) == (one, "exact")
    assert ask(revision="r2").json()["match"] == "revision"
    two = upload(1, revision="r2")["id"]
    assert (ask(revision="r2").json()["id"], ask(revision="r2").json()["match"]) == (two, "exact")
    assert_problem(ask(alias="stable"), 404, "map_not_found", "stable")
    assert_problem(ask(model="nobody"), 404, "map_not_found", "nobody")
    assert_problem(client.get("/maps/resolve"), 422, "invalid_parameter", "model: missing")


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"scores": {"1023-65": 1}}, "invalid_scores", "65536 heads"),
        ({"scores": {"00-0": 1}}, "invalid_scores", "00-0"),
        ({"scores": {"٠-٠": 1}}, "invalid_scores", "layer-head"),
        ({"model": "a\ufffeb"}, "invalid_parameter", "model"),
        ({"revision": "a\x85b"}, "invalid_parameter", "revision"),
    ],
)
def test_maps_that_no_model_has_are_refused(
    refusing: TestClient, fields: dict[str, Any], code: str, named: str
) -> None:
    body = {"model": "some/model", "num_kv_heads": 1, "scores": {"0-0": 1}, **fields}
    assert_problem(refusing.post("/maps", json=body), 422, code, named)
