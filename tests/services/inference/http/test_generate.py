from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.errors import OutOfMemory, QueueFull, RequestTooLarge, ShuttingDown
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.services.inference.asking import QUESTION, ask
from tests.services.inference.conftest import base64_of, png
from tests.services.inference.fakes import IMAGE_TOKENS, FakeModels

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
                "policy": None,
                "policy_version": None,
                "method": "full",
                "budget": prompt,
                "allocation": "exact",
                "keep_recent": None,
                "select": None,
                "map_id": None,
                "map_match": None,
                "kept_tokens": full,
                "bytes": full * 128,
                "full_bytes": full * 128,
            },
            "timings": {"queue_ms": 1.0, "prefill_ms": 2.0, "decode_ms_per_token": 3.0},
            "prefill": [],
            "tokens": [],
            "top_tokens": None,
            "kept": None,
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
    assert models.engine.requests[0].sampling.max_new_tokens == 100


# ---- what text-generation-inference's clients read


def test_details_tell_each_token_and_the_likeliest_ones(client: TestClient, picture: str) -> None:
    details = ask(client, picture, details=True, top_n_tokens=2, max_new_tokens=2).json()["details"]
    assert details["tokens"] == [
        {"id": 1, "text": "It", "logprob": -0.5, "special": False},
        {"id": 2, "text": " says", "logprob": -1.0, "special": False},
    ]
    first = [
        {"id": 0, "text": "<end>", "logprob": -1.0, "special": True},
        {"id": 1, "text": "It", "logprob": -2.0, "special": False},
    ]
    assert details["top_tokens"] == [first, first]


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("/generate", {}, None), ("/generate", {"top_n_tokens": 2}, None), ("/generate", {"details": True}, 0),
        ("/generate", {"details": True, "top_n_tokens": 2}, 2), ("/generate_stream", {}, 0),
        ("/generate_stream", {"top_n_tokens": 2}, 2),
    ],
)  # fmt: skip
def test_log_probabilities_are_computed_where_the_answer_tells_them(
    client: TestClient, picture: str, models: FakeModels, path: str, asked: dict[str, Any], told: int | None
) -> None:
    body = {"inputs": "What is it?", "images": [picture], "parameters": asked}
    assert client.post(path, json=body).status_code == 200
    assert models.engine.requests[0].sampling.top_logprobs == told


def test_headers_tell_times_and_counts(client: TestClient, picture: str) -> None:
    headers = ask(client, picture).headers
    told = {name: headers[name] for name in headers if name.startswith("x-") and name.endswith("-time")}
    assert set(told) == {
        "x-compute-time", "x-total-time", "x-validation-time", "x-queue-time", "x-inference-time"
    }  # fmt: skip
    assert (headers["x-queue-time"], headers["x-inference-time"], headers["x-time-per-token"]) == ("1", "14", "3")
    assert float(headers["x-compute-time"]) * 1000 == pytest.approx(int(headers["x-total-time"]), abs=1)
    assert headers["x-prompt-tokens"] == str(IMAGE_TOKENS + len(QUESTION))
    assert (headers["x-generated-tokens"], headers["x-compute-type"]) == ("5", "cpu")
    assert headers["x-compute-characters"] == str(len(QUESTION))
    streamed = client.post("/generate_stream", json={"inputs": QUESTION, "images": [picture]}).headers
    assert (streamed["x-compute-type"], streamed["x-prompt-tokens"]) == ("cpu", headers["x-prompt-tokens"])


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "regex", "value": "[A-Z]+"},
        {"type": "json", "value": {"type": "object"}},
        {"type": "json_schema", "value": {"name": "x", "schema": {"type": "object"}}},
    ],
)
def test_a_grammar_reaches_the_engine(
    client: TestClient, picture: str, models: FakeModels, grammar: dict[str, Any]
) -> None:
    assert ask(client, picture, grammar=grammar).status_code == 200
    assert models.engine.requests[0].grammar is not None


# ---- several models


def test_a_model_is_chosen_by_name(settings: Settings, models: FakeModels, picture: str) -> None:
    from headmap.models import DEMO_FOLDER

    both = settings.model_copy(update={"models": (DEMO_MODEL, str(DEMO_FOLDER))})
    with TestClient(create_app(both, open_model=models)) as client:
        body = {"inputs": QUESTION, "images": [picture], "model": str(DEMO_FOLDER)}
        assert client.post("/generate", json=body).json()["model"] == str(DEMO_FOLDER)
        assert len(client.get("/v1/models").json()["data"]) == 2
    assert len(models.engines[str(DEMO_FOLDER)].requests) == 1


def test_the_only_model_answers_to_every_name(client: TestClient, picture: str) -> None:
    response = client.post("/generate", json={"inputs": QUESTION, "images": [picture], "model": "tgi"})
    assert (response.status_code, response.json()["model"]) == (200, DEMO_MODEL)


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
