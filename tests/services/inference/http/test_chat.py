from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.errors import OutOfMemory, QueueFull
from headmap.settings import DEMO_MODEL
from tests.services.inference.asking import events_of
from tests.services.inference.conftest import AddMap, live
from tests.services.inference.fakes import IMAGE_TOKENS, FakeModels


@pytest.fixture
def server(app: FastAPI) -> Iterator[openai.OpenAI]:
    """The real client against the application on loopback."""
    with live(app) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def messages(picture: str) -> list[Any]:
    url = f"data:image/png;base64,{picture}"
    return [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]


def post(client: TestClient, picture: str, **fields: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": DEMO_MODEL, "messages": messages(picture), **fields})


# ---- with OpenAI's own client


def test_the_openai_client_gets_an_answer(server: openai.OpenAI, picture: str, models: FakeModels) -> None:
    answer = server.chat.completions.create(
        model=DEMO_MODEL,
        messages=messages(picture),
        max_completion_tokens=9,
        temperature=0.5,
        seed=4,
        stop=["x", "y"],
        extra_body={"kv": {"method": "snapkv", "ratio": 0.5}},
    )
    assert answer.choices[0].message.content == "It says ABC"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == IMAGE_TOKENS + len("Be short.What is it?")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.model_extra is not None
    assert answer.model_extra["kv"]["method"] == "snapkv"
    sampling = models.engine.requests[0].sampling
    assert (sampling.max_new_tokens, sampling.seed, sampling.stop) == (9, 4, ("x", "y"))
    assert (sampling.do_sample, sampling.temperature) == (True, 0.5)


def test_the_openai_client_streams_with_usage(server: openai.OpenAI, picture: str) -> None:
    chunks = list(
        server.chat.completions.create(
            model=DEMO_MODEL,
            messages=messages(picture),
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "It says "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_openai_client_knows_our_errors(server: openai.OpenAI, picture: str, models: FakeModels) -> None:
    with pytest.raises(openai.NotFoundError, match="'nope' is not served"):
        server.chat.completions.create(model="nope", messages=messages(picture))
    with pytest.raises(openai.BadRequestError, match="reasoning_effort: not served"):
        server.chat.completions.create(model=DEMO_MODEL, messages=messages(picture), reasoning_effort="high")
    models.engine.refuse = QueueFull("full")
    with pytest.raises(openai.RateLimitError):
        server.chat.completions.create(model=DEMO_MODEL, messages=messages(picture))
    models.engine.refuse = None
    models.engine.fail = OutOfMemory("the model ran out of memory")
    with pytest.raises(openai.APIError, match="out of memory"):
        list(server.chat.completions.create(model=DEMO_MODEL, messages=messages(picture), stream=True))


def test_the_openai_client_lists_models(server: openai.OpenAI) -> None:
    assert [model.id for model in server.models.list()] == [DEMO_MODEL]
    assert server.models.retrieve(DEMO_MODEL).owned_by == "headmap"


# ---- the schema


def test_several_turns_and_pictures_keep_their_places(client: TestClient, picture: str, models: FakeModels) -> None:
    turns = [
        *messages(picture),
        {"role": "assistant", "content": "A cat.", "refusal": None},
        {"role": "user", "content": "And what else?"},
    ]
    assert post(client, picture, messages=turns).status_code == 200
    ((system, user, assistant, last),) = models.prompt_maker.conversations
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert (system["role"], assistant["role"]) == ("system", "assistant")
    assert last["content"] == [{"type": "text", "text": "And what else?"}]


def test_text_alone_is_answered(client: TestClient, picture: str) -> None:
    response = post(client, picture, messages=[{"role": "user", "content": "Hello"}])
    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "samples"),
    [({}, False), ({"temperature": 0}, False), ({"temperature": 1}, True), ({"top_p": 0.9}, True)],
)
def test_it_is_greedy_unless_sampling_is_asked_for(
    client: TestClient, picture: str, models: FakeModels, fields: dict[str, Any], samples: bool
) -> None:
    assert post(client, picture, **fields).status_code == 200
    assert models.engine.requests[0].sampling.do_sample is samples


def test_values_that_mean_the_default_are_accepted(client: TestClient, picture: str) -> None:
    neutral = {
        "n": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "stop": None,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "user": "someone",
        "store": False,
        "metadata": None,
        "service_tier": "auto",
        "stream": False,
        "ignore_eos": False,
    }
    assert post(client, picture, **neutral).status_code == 200


def test_kv_uses_the_map(client: TestClient, picture: str, file_map: AddMap) -> None:
    map_id = file_map()
    kv = post(client, picture, kv={"ratio": 0.5, "map": map_id}).json()["kv"]
    assert (kv["method"], kv["map_id"], kv["map_match"]) == ("sparsemm", map_id, "exact")


BAD: list[tuple[dict[str, Any], int, str, str]] = [
    ({"n": 9}, 400, "invalid_parameter", "n"),
    ({"n": 0}, 400, "invalid_parameter", "n"),
    ({"n": 2, "session": "s"}, 400, "invalid_parameter", "session"),
    ({"session": "a b"}, 400, "invalid_parameter", "session"),
    ({"top_logprobs": 2}, 400, "invalid_parameter", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_parameter", "top_logprobs"),
    ({"tools": [{"type": "function"}]}, 400, "invalid_parameter", "tools"),
    ({"response_format": {"type": "xml"}}, 400, "invalid_parameter", "response_format"),
    ({"response_format": {"type": "json_schema"}}, 400, "invalid_parameter", "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such"}}}},
        400,
        "invalid_parameter",
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["é"]}}}},
        400,
        "invalid_parameter",
        "response_format.json_schema.schema",
    ),
    ({"frequency_penalty": 2.5}, 400, "invalid_parameter", "frequency_penalty"),
    ({"surprise": True}, 400, "invalid_parameter", "surprise"),
    ({"messages": []}, 400, "invalid_parameter", "messages"),
    ({"messages": [{"role": "judge", "content": "x"}]}, 400, "invalid_parameter", "messages.0"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "empty_prompt", "messages"),
    ({"messages": [{"role": "user", "content": []}]}, 400, "empty_prompt", "messages"),
    ({"stop": ["a"] * 17}, 400, "invalid_parameter", "stop"),
    ({"max_tokens": -1}, 400, "invalid_parameter", "max_tokens"),
    ({"temperature": "1"}, 400, "invalid_parameter", "temperature"),
    ({"model": "nope"}, 404, "model_not_found", "model"),
    ({"kv": {"method": "h2o"}}, 400, "unknown_method", "kv.method"),
    ({"kv": {"budget": 0}}, 400, "budget_too_small", "kv.budget"),
]


@pytest.mark.parametrize(("fields", "status", "code", "param"), BAD)
def test_bad_input_has_openais_shape_and_names_the_field(
    client: TestClient, picture: str, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    response = post(client, picture, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), error
    assert error["param"].startswith(param)
    assert error["message"]


def test_a_bad_picture_is_named_by_its_place(client: TestClient) -> None:
    content = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, {"type": "text", "text": "x"}]
    error = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": content}]}).json()[
        "error"
    ]
    assert (error["code"], error["param"]) == ("invalid_image", "messages.0.content.0.image_url.url")


def test_a_failing_stream_still_ends_with_done(client: TestClient, picture: str, models: FakeModels) -> None:
    models.engine.fail = OutOfMemory("the model ran out of memory")
    blocks = post(client, picture, stream=True).text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    name, data = blocks[-2].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "out_of_memory"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("n", [1, 2])
def test_no_new_tokens_only_prefill_the_prompt(client: TestClient, picture: str, field: str, n: int) -> None:
    body = post(client, picture, n=n, **{field: 0}).json()
    assert [(choice["message"]["content"], choice["finish_reason"]) for choice in body["choices"]] == [
        ("", "length")
    ] * n
    assert body["usage"]["completion_tokens"] == 0
    assert body["kv"]["kept_tokens"] > 0
    text = post(client, picture, n=n, stream=True, logprobs=True, **{field: 0}).text
    assert text.count('"finish_reason": "length"') == n
    assert "error" not in text


def test_the_role_comes_with_the_first_token(client: TestClient, picture: str) -> None:
    text = post(client, picture, stream=True).text.replace("data: [DONE]", "")
    first, *others = [chunk["choices"][0]["delta"] for _, chunk in events_of(text)]
    assert first == {"role": "assistant", "content": "It"}
    assert not any("role" in delta for delta in others)


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 2}, {"stop": "q"}, {"n": 2}])
def test_log_probabilities_are_the_same_streamed_and_whole(
    client: TestClient, picture: str, fields: dict[str, Any]
) -> None:
    asked = {"logprobs": True, "top_logprobs": 2, **fields}
    whole = post(client, picture, **asked).json()["choices"]
    text = post(client, picture, stream=True, **asked).text.replace("data: [DONE]", "")
    streamed: dict[int, list[Any]] = {choice["index"]: [] for choice in whole}
    for _, chunk in events_of(text):
        for choice in chunk["choices"]:
            streamed[choice["index"]] += (choice["logprobs"] or {"content": []})["content"]
    for choice in whole:
        assert choice["logprobs"]["content"] == streamed[choice["index"]]
        assert len(choice["logprobs"]["content"]) == (2 if "max_tokens" in fields else 4)


def test_usage_can_come_with_every_chunk(client: TestClient, picture: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = post(client, picture, stream=True, stream_options=options).text.replace("data: [DONE]", "")
    counts = [chunk["usage"]["completion_tokens"] for _, chunk in events_of(text)]
    assert counts[:4] == [1, 2, 3, 4]
    assert counts[-1] == 5


def test_a_prompt_that_is_too_long_is_told_in_openais_words(client: TestClient, models: FakeModels) -> None:
    for fields, param in (
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5000}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 5000}, "max_completion_tokens"),
    ):
        answer = client.post("/v1/chat/completions", json=fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        assert "maximum context length is 4096 tokens. However, you requested" in error["message"]


def test_without_max_tokens_an_answer_has_the_room_that_is_left(
    client: TestClient, picture: str, models: FakeModels
) -> None:
    post(client, picture)
    request = models.engine.requests[0]
    assert request.sampling.max_new_tokens == 4096 - request.prompt.prompt_tokens
    assert request.open_ended
    post(client, picture, max_tokens=5)
    assert not models.engine.requests[1].open_ended
