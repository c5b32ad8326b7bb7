from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.settings import DEMO_MODEL
from tests.services.inference.asking import events_of
from tests.services.inference.conftest import live
from tests.services.inference.fakes import FakeModels


@pytest.fixture
def server(app: FastAPI) -> Iterator[openai.OpenAI]:
    with live(app) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def post(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/completions", json={"model": DEMO_MODEL, "prompt": "Once", **fields})


def test_the_openai_client_gets_a_completion(server: openai.OpenAI, models: FakeModels) -> None:
    answer = server.completions.create(
        model=DEMO_MODEL, prompt="Once", max_tokens=9, seed=3, extra_body={"kv": {"method": "snapkv", "ratio": 0.5}}
    )
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "It says ABC",
        "stop",
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 5)
    assert answer.choices[0].model_extra is not None
    assert answer.choices[0].model_extra["kv"]["method"] == "snapkv"
    assert models.engine.requests[0].sampling.seed == 3


def test_the_openai_client_streams_a_completion(server: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        server.completions.create(model=DEMO_MODEL, prompt="Once", max_tokens=3, stream=True, stream_options=options)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "It says "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 7


def test_sixteen_tokens_unless_told_otherwise(client: TestClient, models: FakeModels) -> None:
    post(client)
    assert models.engine.requests[0].sampling.max_new_tokens == 16


def test_no_new_tokens_are_taken_here(client: TestClient) -> None:
    body = post(client, max_tokens=0, echo=True).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Once", "length")
    assert body["usage"]["completion_tokens"] == 0
    text = post(client, max_tokens=0, stream=True).text.replace("data: [DONE]", "")
    assert [data["choices"][0]["text"] for _, data in events_of(text)] == [""]


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_and_choices_keep_their_order(client: TestClient, models: FakeModels, stream: bool) -> None:
    response = post(client, prompt=["Once", "Twice"], n=2, echo=True, stream=stream)
    if stream:
        chunks = [data["choices"][0] for _, data in events_of(response.text.replace("data: [DONE]", ""))]
        texts = ["".join(c["text"] for c in chunks if c["index"] == index) for index in range(4)]
    else:
        assert response.json()["usage"]["prompt_tokens"] == 9
        texts = [choice["text"] for choice in response.json()["choices"]]
    assert texts == ["OnceIt says ABC"] * 2 + ["TwiceIt says ABC"] * 2
    assert [request.prompt.prompt_tokens for request in models.engine.requests] == [4, 4, 5, 5]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_have_openais_older_shape(client: TestClient, stream: bool) -> None:
    response = post(client, logprobs=1, stream=stream)
    if stream:
        chunks = [data["choices"][0]["logprobs"] for _, data in events_of(response.text.replace("data: [DONE]", ""))]
        told = {
            key: [value for one in chunks if one for value in one[key]]
            for key in ("tokens", "token_logprobs", "text_offset")
        }
    else:
        told = response.json()["choices"][0]["logprobs"]
        assert told.pop("top_logprobs")[0] == {"<end>": -1.0}
    assert told == {
        "tokens": ["It", " says", " ", "ABC"],
        "token_logprobs": [-0.5, -1.0, -1.5, -2.0],
        "text_offset": [0, 2, 7, 8],
    }


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "empty_prompt", "prompt"),
    ({"prompt": []}, "invalid_parameter", "prompt"),
    ({"prompt": [1, "x"]}, "invalid_parameter", "prompt.1"),
    ({"prompt": [[1, -2]]}, "invalid_parameter", "prompt"),
    ({"prompt": ["x"] * 17}, "invalid_parameter", "prompt"),
    ({"best_of": 2}, "invalid_parameter", "best_of"),
    ({"suffix": "end"}, "invalid_parameter", "suffix"),
    ({"max_tokens": -1}, "invalid_parameter", "max_tokens"),
    ({"logit_bias": {"5": 101}}, "invalid_parameter", "logit_bias"),
    ({"messages": []}, "invalid_parameter", "messages"),
    ({"kv": {"budget": 0}}, "budget_too_small", "kv.budget"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "q"}}}},
     "invalid_parameter", "response_format.json_schema.schema"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "param"), BAD)
def test_bad_input_names_the_field(client: TestClient, fields: dict[str, Any], code: str, param: str) -> None:
    response = post(client, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code), error
    assert error["param"].startswith(param)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 9])
def test_an_echoed_prompt_has_log_probabilities(client: TestClient, stream: bool, max_tokens: int) -> None:
    response = post(client, echo=True, logprobs=1, stream=stream, max_tokens=max_tokens)
    assert response.status_code == 200, response.text
    if stream:
        chunks = [data["choices"][0] for _, data in events_of(response.text.replace("data: [DONE]", ""))]
        parts = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
        told = {name: [one for part in parts for one in part[name]] for name in parts[0]}
        text = "".join(chunk["text"] for chunk in chunks)
    else:
        (choice,) = response.json()["choices"]
        told, text = choice["logprobs"], choice["text"]
    assert text.startswith("Once")
    new = min(max_tokens, 5)
    assert len(told["tokens"]) == 4 + new, "every token counts, the end token too"
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    assert all(value < 0 for value in told["token_logprobs"][1:])
    assert told["text_offset"] == sorted(told["text_offset"])


def test_prompts_of_token_ids_go_on(client: TestClient, models: FakeModels) -> None:
    assert post(client, prompt=[1, 2, 3]).json()["usage"]["prompt_tokens"] == 3
    both = post(client, prompt=[[1, 2], [3]], echo=True).json()
    assert [choice["text"] for choice in both["choices"]] == ["It saysIt says ABC", " It says ABC"]
    assert both["usage"]["prompt_tokens"] == 3
