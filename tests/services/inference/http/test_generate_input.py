from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.settings import Settings
from services.inference.http.app import create_app
from tests.services.inference.asking import QUESTION, ask
from tests.services.inference.conftest import base64_of, png
from tests.services.inference.fakes import FakeModels

BAD = [
    ({"inputs": "  ", "images": []}, 422, "empty_prompt", "inputs"),
    ({"inputs": "![](data:,)"}, 422, "invalid_image", "inputs"),
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
    ({"parameters": {"max_new_tokens": -1}}, 422, "invalid_parameter", "got -1"),
    ({"parameters": {"max_new_tokens": 1.5}}, 422, "invalid_parameter", "got 1.5"),
    ({"parameters": {"max_new_tokens": "5"}}, 422, "invalid_parameter", "got '5'"),
    ({"parameters": {"temperature": 0}}, 422, "invalid_parameter", "parameters.temperature"),
    ({"parameters": {"top_p": 1.5}}, 422, "invalid_parameter", "got 1.5"),
    ({"parameters": {"stop": [""]}}, 422, "invalid_parameter", "parameters.stop.0"),
    ({"parameters": {"seed": 2**63}}, 422, "invalid_parameter", "parameters.seed"),
    ({"parameters": {"best_of": 2}}, 422, "invalid_parameter", "parameters.best_of"),
    ({"parameters": {"grammar": {}}}, 422, "invalid_parameter", "parameters.grammar"),
    ({"parameters": {"grammar": {"type": "regex", "value": "("}}}, 422, "invalid_parameter", "parameters.grammar"),
    ({"parameters": {"grammar": {"type": "regex", "value": "é"}}}, 422, "invalid_parameter", "cannot write 'é'"),
    (
        {"stream": True, "parameters": {"decoder_input_details": True}},
        422,
        "invalid_parameter",
        "decoder_input_details",
    ),
    ({"parameters": {"top_n_tokens": 21}}, 422, "invalid_parameter", "got 21"),
    (
        {"parameters": {"kept": {"layer": 6, "kv_head": 0}}},
        422,
        "invalid_parameter",
        "parameters.kept.layer: must be below 6",
    ),
    (
        {"parameters": {"kept": {"layer": 0, "kv_head": 3}}},
        422,
        "invalid_parameter",
        "parameters.kept.kv_head: must be below 3",
    ),
    ({"parameters": {"kept": {"layer": -1, "kv_head": 0}}}, 422, "invalid_parameter", "parameters.kept.layer"),
    ({"parameters": {"kept": {"layer": 0}}}, 422, "invalid_parameter", "parameters.kept.kv_head"),
    ({"parameters": {"truncate": 5}}, 422, "invalid_parameter", "parameters.truncate"),
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
    assert (problem["error"], problem["error_type"]) == (problem["detail"], "validation")
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


@pytest.mark.parametrize("padding", [0, 100_000])
@pytest.mark.parametrize(
    "more",
    [
        b'"inputs": "\\ud800 what"',
        b'"inputs": "\xff"',
        b'"inputs": ' + b"[" * 900 + b"]" * 900,
        b'"parameters": {"seed": ' + b"9" * 6000 + b"}",
        b'"parameters": {"grammar": {"type": "json", "value": ' + b'{"items":' * 150 + b"{}" + b"}" * 150 + b"}}",
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/completions"])
def test_bodies_that_parsers_stumble_over_are_refused(
    client: TestClient, picture: str, path: str, more: bytes, padding: int
) -> None:
    body = b'{"images": ["' + picture.encode() + b'"], "inputs": "What?", ' + more + b" " * padding + b"}"
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == (422 if path == "/generate" else 400)


def test_pixels_of_all_pictures_together_are_bounded(settings: Settings, models: FakeModels) -> None:
    small = settings.model_copy(update={"max_request_pixels": 250})
    pictures = [base64_of(png(10, 10)) for _ in range(3)]
    with TestClient(create_app(small, open_model=models)) as client:
        assert client.post("/generate", json={"inputs": "What?", "images": pictures[:2]}).status_code == 200
        answer = client.post("/generate", json={"inputs": "What?", "images": pictures})
        assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
        assert "images.2: 300 pixels in the request's pictures up to this one; at most 250" in answer.json()["detail"]
