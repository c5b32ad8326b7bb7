from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from headmap.errors import OutOfMemory, QueueFull, RequestTooLarge, ShuttingDown
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from services.inference.app import create_app
from tests.services.inference.conftest import AddMap, base64_of, png, wait_for
from tests.services.inference.fakes import EOS, IMAGE_TOKENS, FakeModels

QUESTION = "What is it?"


def ask(client: TestClient, picture: str, **parameters: Any) -> Any:
    return client.post("/generate", json={"inputs": QUESTION, "images": [picture], "parameters": parameters})


def events_of(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.strip().split("\n") if line and not line.startswith(":"))
        if "data" in lines:
            found.append((lines.get("event"), json.loads(lines["data"])))
    return found


# ---- answers


def test_answer_has_every_field_of_the_contract(client: TestClient, picture: str) -> None:
    response = ask(client, picture, seed=7)
    assert response.status_code == 200
    prompt = IMAGE_TOKENS + len(QUESTION)
    body = response.json()
    revision = body.pop("revision")
    full = body["details"]["kv"].pop("full_tokens")
    assert revision.startswith("sha256:")
    assert body == {
        "generated_text": "It says ABC",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 5,
            "prompt_tokens": prompt,
            "image_tokens": IMAGE_TOKENS,
            "seed": 7,
            "kv": {
                "method": "full",
                "budget": prompt,
                "allocation": "exact",
                "map_id": None,
                "map_match": None,
                "kept_tokens": full,
                "bytes": full * 128,
                "full_bytes": full * 128,
            },
            "timings": {"queue_ms": 1.0, "prefill_ms": 2.0, "decode_ms_per_token": 3.0},
        },
        "model": DEMO_MODEL,
    }


def test_a_length_end_says_length(client: TestClient, picture: str) -> None:
    details = ask(client, picture, max_new_tokens=2).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 2)


def test_a_seed_is_drawn_and_told(client: TestClient, picture: str, models: FakeModels) -> None:
    seed = ask(client, picture).json()["details"]["seed"]
    assert models.engine.requests[0].sampling.seed == seed


def test_images_stand_before_the_text_and_markdown_in_its_place(client: TestClient, models: FakeModels) -> None:
    small, large = base64_of(png(3, 3)), base64_of(png(5, 5))
    inputs = f"Left ![](data:image/png;base64,{large}) or right?"
    assert client.post("/generate", json={"inputs": inputs, "images": [small]}).status_code == 200
    ((message,),) = models.prompt_maker.conversations
    assert message == {
        "role": "user",
        "content": [
            {"type": "image"},
            {"type": "text", "text": "Left"},
            {"type": "image"},
            {"type": "text", "text": "or right?"},
        ],
    }
    assert [image.size for image in models.prompt_maker.images] == [(3, 3), (5, 5)]


def test_parameters_reach_the_engine(client: TestClient, picture: str, models: FakeModels) -> None:
    kv = {"method": "snapkv", "budget": 20, "window": 4, "uniform": 0.2, "allocation": "paper"}
    asked = {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 1.1,
        "seed": 3,
        "stop": ["x"],
    }
    assert ask(client, picture, **asked, kv=kv).status_code == 200
    (request,) = models.engine.requests
    sampling = request.sampling
    assert {name: getattr(sampling, name) for name in asked} == {**asked, "stop": ("x",)}
    assert sampling.do_sample
    assert (request.kv.method, request.kv.budget, request.kv.window) == ("snapkv", 20, 4)
    assert (request.kv.uniform, request.kv.allocation) == (0.2, "paper")


@pytest.mark.parametrize(
    ("asked", "samples"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"top_k": 3}, True),
        ({"do_sample": True}, True),
        ({"do_sample": False, "temperature": 0.7}, False),
    ],
)
def test_sampling_is_on_where_it_is_asked_for(
    client: TestClient, picture: str, models: FakeModels, asked: dict[str, Any], samples: bool
) -> None:
    ask(client, picture, **asked)
    assert models.engine.requests[0].sampling.do_sample is samples


def test_values_that_mean_the_default_are_accepted(client: TestClient, picture: str) -> None:
    neutral = {"best_of": 1, "watermark": False, "typical_p": 1.0, "truncate": None, "details": True, "top_n_tokens": 0}
    assert ask(client, picture, **neutral, return_full_text=False, grammar=None).status_code == 200


def test_without_max_new_tokens_the_answer_fits_the_context(
    client: TestClient, picture: str, models: FakeModels, settings: Settings
) -> None:
    ask(client, picture)
    assert models.engine.requests[0].sampling.max_new_tokens == settings.default_max_new_tokens


# ---- maps and methods


def test_sparsemm_is_the_default_method_and_takes_the_default_map(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap
) -> None:
    map_id = file_map()
    with TestClient(create_app(settings, open_model=models)) as client:
        kv = ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]
    assert (kv["method"], kv["map_id"], kv["map_match"]) == ("sparsemm", map_id, "exact")
    assert kv["kept_tokens"] == kv["budget"] * kv["full_tokens"] // (IMAGE_TOKENS + len(QUESTION))


def test_a_map_of_another_revision_says_so(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap
) -> None:
    file_map(revision="older")
    with TestClient(create_app(settings, open_model=models)) as client:
        assert ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_match"] == "revision"


def test_without_a_map_sparsemm_runs_as_snapkv_and_tells(client: TestClient, picture: str) -> None:
    kv = ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]
    assert (kv["method"], kv["map_id"], kv["map_match"]) == ("snapkv", None, "none")


def test_without_a_map_the_error_policy_answers_409(settings: Settings, models: FakeModels, picture: str) -> None:
    strict = settings.model_copy(update={"no_map_policy": "error"})
    with TestClient(create_app(strict, open_model=models)) as client:
        response = ask(client, picture, kv={"ratio": 0.5})
    assert (response.status_code, response.json()["code"]) == (409, "no_map_for_model")


def test_an_alias_that_moves_is_followed_without_a_restart(client: TestClient, picture: str, file_map: AddMap) -> None:
    first = file_map()
    wait_for(lambda: ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_id"] == first)
    second = file_map()
    wait_for(lambda: ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_id"] == second)


def test_a_map_is_chosen_by_id_or_alias(client: TestClient, picture: str, file_map: AddMap) -> None:
    first, second = file_map(), file_map()
    for name, wanted in ((first, first), ("default", second)):
        kv = ask(client, picture, kv={"ratio": 0.5, "map": name}).json()["details"]["kv"]
        assert kv["map_id"] == wanted


def test_an_unknown_map_answers_404(client: TestClient, picture: str) -> None:
    response = ask(client, picture, kv={"ratio": 0.5, "map": "nope"})
    assert (response.status_code, response.json()["code"]) == (404, "map_not_found")
    assert "'nope'" in response.json()["detail"]


def test_a_map_of_another_shape_answers_409(client: TestClient, picture: str, file_map: AddMap) -> None:
    other = file_map(layers=3)
    response = ask(client, picture, kv={"ratio": 0.5, "map": other})
    assert (response.status_code, response.json()["code"]) == (409, "map_mismatch")


def test_a_registry_that_goes_away_leaves_the_loaded_maps(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap, database: Database
) -> None:
    first, second = file_map(), file_map()
    with TestClient(create_app(settings, open_model=models)) as client:
        assert ask(client, picture, kv={"ratio": 0.5, "map": first}).status_code == 200
        with database.write() as session:
            session.execute(text("ALTER TABLE maps RENAME TO away"))
        wait_for(lambda: client.get("/health/ready").json()["status"] == "degraded")
        assert client.get("/health/ready").status_code == 200
        for name, wanted in ((None, second), (first, first)):
            kv = ask(client, picture, kv={"ratio": 0.5, "map": name}).json()["details"]["kv"]
            assert kv["map_id"] == wanted
        response = ask(client, picture, kv={"ratio": 0.5, "map": "never-seen"})
        assert (response.status_code, response.json()["code"]) == (503, "registry_unavailable")


def test_a_default_ratio_serves_requests_without_kv(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap
) -> None:
    map_id = file_map()
    ours = settings.model_copy(update={"default_kv_ratio": 0.25})
    with TestClient(create_app(ours, open_model=models)) as client:
        kv = ask(client, picture).json()["details"]["kv"]
    assert (kv["method"], kv["map_id"]) == ("sparsemm", map_id)
    assert kv["bytes"] <= 0.25 * kv["full_bytes"]


# ---- several models


def test_a_model_is_chosen_by_name(settings: Settings, models: FakeModels, picture: str) -> None:
    from headmap.models import DEMO_FOLDER

    both = settings.model_copy(update={"models": (DEMO_MODEL, str(DEMO_FOLDER))})
    with TestClient(create_app(both, open_model=models)) as client:
        body = {"inputs": QUESTION, "images": [picture], "model": str(DEMO_FOLDER)}
        assert client.post("/generate", json=body).json()["model"] == str(DEMO_FOLDER)
        assert len(client.get("/v1/models").json()["data"]) == 2
    assert len(models.engines[str(DEMO_FOLDER)].requests) == 1


def test_an_unknown_model_answers_404(client: TestClient, picture: str) -> None:
    response = client.post("/generate", json={"inputs": QUESTION, "images": [picture], "model": "nope"})
    assert (response.status_code, response.json()["code"]) == (404, "model_not_found")


# ---- bad input, one by one

BAD = [
    ({"inputs": "  "}, 422, "empty_prompt", "inputs"),
    ({"inputs": "![](data:,)"}, 422, "empty_prompt", "inputs"),
    ({"images": []}, 422, "no_image", "images"),
    ({"inputs": 5}, 422, "invalid_parameter", "got 5"),
    ({"inputs": None}, 422, "invalid_parameter", "inputs"),
    ({"images": "abc"}, 422, "invalid_parameter", "images"),
    ({"images": [7]}, 422, "invalid_parameter", "got 7"),
    ({"images": ["/etc/passwd"]}, 422, "invalid_image", "images.0"),
    ({"images": ["file:///etc/passwd"]}, 422, "invalid_image", "file:///etc/passwd"),
    ({"images": ["http://example.com/a.png"]}, 422, "invalid_image", "image URLs are off"),
    ({"images": ["aGVsbG8="]}, 422, "invalid_image", "images.0"),
    ({"images": ["%%%"]}, 422, "invalid_image", "base64"),
    ({"stream": "yes"}, 422, "invalid_parameter", "'yes'"),
    ({"surprise": 1}, 422, "invalid_parameter", "surprise: unknown field"),
    ({"parameters": {"max_tokens": 5}}, 422, "invalid_parameter", "parameters.max_tokens: unknown field"),
    ({"parameters": {"max_new_tokens": 0}}, 422, "invalid_parameter", "got 0"),
    ({"parameters": {"max_new_tokens": 1.5}}, 422, "invalid_parameter", "got 1.5"),
    ({"parameters": {"max_new_tokens": "5"}}, 422, "invalid_parameter", "got '5'"),
    ({"parameters": {"temperature": 0}}, 422, "invalid_parameter", "parameters.temperature"),
    ({"parameters": {"top_p": 1.5}}, 422, "invalid_parameter", "got 1.5"),
    ({"parameters": {"stop": [""]}}, 422, "invalid_parameter", "parameters.stop.0"),
    ({"parameters": {"seed": -1}}, 422, "invalid_parameter", "got -1"),
    ({"parameters": {"best_of": 2}}, 422, "invalid_parameter", "parameters.best_of"),
    ({"parameters": {"grammar": {}}}, 422, "invalid_parameter", "parameters.grammar"),
    ({"parameters": {"kv": {}}}, 422, "invalid_parameter", "kv: give exactly one of budget and ratio"),
    ({"parameters": {"kv": {"budget": 5, "ratio": 0.5}}}, 422, "invalid_parameter", "exactly one"),
    ({"parameters": {"kv": {"budget": 0}}}, 422, "budget_too_small", "got 0"),
    ({"parameters": {"kv": {"budget": -3}}}, 422, "budget_too_small", "got -3"),
    ({"parameters": {"kv": {"ratio": 0}}}, 422, "invalid_parameter", "parameters.kv.ratio"),
    ({"parameters": {"kv": {"ratio": 1.5}}}, 422, "invalid_parameter", "got 1.5"),
    ({"parameters": {"kv": {"method": "h2o", "budget": 5}}}, 422, "unknown_method", "'h2o'"),
    ({"parameters": {"kv": {"budget": 8, "window": 8}}}, 422, "budget_too_small", "window"),
    ({"parameters": {"kv": {"budget": 8, "allocation": "x"}}}, 422, "invalid_parameter", "'x'"),
    ({"parameters": {"kv": {"budget": 8, "heads": 2}}}, 422, "invalid_parameter", "kv.heads: unknown field"),
]


@pytest.mark.parametrize(("change", "status", "code", "named"), BAD)
def test_bad_input_names_the_field_and_the_value(
    client: TestClient, picture: str, change: dict[str, Any], status: int, code: str, named: str
) -> None:
    response = client.post("/generate", json={"inputs": QUESTION, "images": [picture], **change})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert named in problem["detail"]
    assert ask(client, picture).status_code == 200


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    response = client.post("/generate", content=b"{", headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")


def test_too_many_images_are_refused(client: TestClient, picture: str, settings: Settings) -> None:
    images = [picture] * (settings.max_images + 1)
    response = client.post("/generate", json={"inputs": QUESTION, "images": images})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")


def test_a_text_too_long_for_the_context_is_refused_before_it_is_tokenized(
    client: TestClient, picture: str, models: FakeModels
) -> None:
    response = client.post("/generate", json={"inputs": "x" * 100_000, "images": [picture]})
    assert (response.status_code, response.json()["code"]) == (422, "prompt_too_long")
    assert not models.prompt_maker.conversations


def test_a_picture_the_model_cannot_take_is_an_invalid_image(
    client: TestClient, picture: str, models: FakeModels
) -> None:
    models.prompt_maker.error = ValueError("absolute aspect ratio must be smaller than 200")
    response = ask(client, picture)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_image")


# ---- the engine's refusals and failures


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_answers_429_with_retry_after(
    client: TestClient, picture: str, models: FakeModels, stream: bool
) -> None:
    models.engine.refuse = QueueFull("full", retry_after=3)
    response = client.post("/generate", json={"inputs": QUESTION, "images": [picture], "stream": stream})
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize(("error", "status"), [(RequestTooLarge("kv: too large"), 422), (ShuttingDown("ending"), 503)])
def test_what_the_engine_refuses_keeps_its_status(
    client: TestClient, picture: str, models: FakeModels, error: Any, status: int
) -> None:
    models.engine.refuse = error
    response = ask(client, picture)
    assert (response.status_code, response.json()["code"]) == (status, error.code)


def test_a_failure_in_the_engine_is_this_requests_answer(client: TestClient, picture: str, models: FakeModels) -> None:
    models.engine.fail = OutOfMemory("the model ran out of memory")
    response = ask(client, picture)
    assert (response.status_code, response.json()["code"]) == (503, "out_of_memory")
    models.engine.fail = None
    assert ask(client, picture).status_code == 200


# ---- streams


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_stream_has_one_event_per_token_and_the_last_tells_all(client: TestClient, picture: str, path: str) -> None:
    response = client.post(path, json={"inputs": QUESTION, "images": [picture], "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [data for _, data in events_of(response.text)]
    assert [event["token"]["id"] for event in events] == [1, 2, 3, 4, EOS]
    assert [event["index"] for event in events] == [1, 2, 3, 4, 5]
    assert all(event["generated_text"] is None and event["details"] is None for event in events[:-1])
    last = events[-1]
    assert last["generated_text"] == "".join(event["token"]["text"] for event in events) == "It says ABC"
    assert last["details"]["generated_tokens"] == 5
    assert last["details"]["kv"]["method"] == "full"
    assert last["model"] == DEMO_MODEL


def test_a_stream_cut_by_length_ends_with_its_last_token(client: TestClient, picture: str) -> None:
    body = {"inputs": QUESTION, "images": [picture], "stream": True, "parameters": {"max_new_tokens": 2}}
    events = [data for _, data in events_of(client.post("/generate", json=body).text)]
    assert [event["token"]["id"] for event in events] == [1, 2]
    assert events[-1]["details"]["finish_reason"] == "length"


def test_a_failing_stream_ends_with_one_error_event(client: TestClient, picture: str, models: FakeModels) -> None:
    models.engine.fail = OutOfMemory("the model ran out of memory")
    response = client.post("/generate", json={"inputs": QUESTION, "images": [picture], "stream": True})
    events = events_of(response.text)
    assert [name for name, _ in events] == [None, "error"]
    assert events[-1][1]["code"] == events[-1][1]["error_type"] == "out_of_memory"
    assert events[-1][1]["status"] == 503


# ---- what is told beside


def test_metrics_have_the_names_that_dashboards_know(client: TestClient, picture: str) -> None:
    ask(client, picture, kv={"method": "snapkv", "ratio": 0.5})
    ask(client, picture, kv={"method": "h2o", "ratio": 0.5})
    told = client.get("/metrics").text
    model = f'model_name="{DEMO_MODEL}"'
    for line in (
        f"headmap_num_requests_running{{{model}}} 0.0",
        f"headmap_num_requests_waiting{{{model}}} 0.0",
        f"headmap_kv_cache_usage_perc{{{model}}} 0.0",
        f"headmap_time_to_first_token_seconds_count{{{model}}} 1.0",
        f"headmap_generation_tokens_total{{{model}}} 5.0",
        f"headmap_prompt_tokens_total{{{model}}} {IMAGE_TOKENS + len(QUESTION)}.0",
        f'headmap_request_failure_total{{code="unknown_method",{model}}} 1.0',
    ):
        assert line in told, line
    assert f'headmap_kv_kept_bytes_total{{method="snapkv",{model}}}' in told
    assert f'headmap_kv_full_bytes_total{{method="snapkv",{model}}}' in told


def test_a_stream_read_to_its_end_counts_as_finished_alone(client: TestClient, picture: str) -> None:
    client.post("/generate", json={"inputs": QUESTION, "images": [picture], "stream": True})
    told = client.get("/metrics").text
    assert "headmap_request_success_total{" in told
    assert "headmap_request_failure_total{" not in told


def test_readiness_follows_the_engine(client: TestClient, models: FakeModels) -> None:
    assert client.get("/health/ready").status_code == 200
    models.engine.current.alive = False
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_the_engine_is_stopped_with_the_application(app: FastAPI, models: FakeModels) -> None:
    with TestClient(app):
        assert not models.engine.stopped
    assert models.engine.stopped


def test_models_and_info(client: TestClient, settings: Settings) -> None:
    listed = client.get("/v1/models").json()
    (model,) = listed["data"]
    assert (listed["object"], model["id"], model["object"]) == ("list", DEMO_MODEL, "model")
    assert (model["map"], model["default_kv"]) == (None, {"method": "full"})
    assert client.get(f"/v1/models/{DEMO_MODEL}").json() == model
    info = client.get("/info").json()
    assert (info["model_id"], info["model_sha"]) == (DEMO_MODEL, model["revision"])
    assert info["max_total_tokens"] == model["max_model_len"]
    missing = client.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
