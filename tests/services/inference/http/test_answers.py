"""Several answers to one request, log probabilities, forms and sessions under /v1, over the fake engine."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.engine.messages import EngineRequest
from headmap.errors import OutOfMemory, QueueFull
from headmap.settings import DEMO_MODEL
from tests.services.inference.asking import events_of
from tests.services.inference.conftest import base64_of, live, png, wait_for
from tests.services.inference.fakes import FakeModels
from tests.services.inference.http.test_chat import messages, post


def test_n_answers_have_seeds_of_their_own(client: TestClient, picture: str, models: FakeModels) -> None:
    body = post(client, picture, n=3, seed=4, temperature=1.0).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [request.sampling.seed for request in models.engine.requests] == [4, 5, 6]
    assert len({request.id for request in models.engine.requests}) == 3
    prompt = models.engine.requests[0].prompt.prompt_tokens
    assert body["usage"]["prompt_tokens"] == prompt
    assert body["usage"]["completion_tokens"] == 3 * 5
    assert len(models.prompt_maker.conversations) == 1  # the picture is decoded once


def test_n_answers_stream_side_by_side(client: TestClient, picture: str) -> None:
    response = post(client, picture, n=2, stream=True, stream_options={"include_usage": True})
    assert response.text.strip().endswith("data: [DONE]")
    chunks = [data for _, data in events_of(response.text.replace("data: [DONE]", ""))]
    for index in range(2):
        own = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": "It"}
        assert "".join(choice["delta"].get("content", "") for choice in own) == "It says ABC"
        assert [choice["finish_reason"] for choice in own][-1] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 10


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_is_refused_takes_the_others_along(
    client: TestClient, picture: str, models: FakeModels, stream: bool
) -> None:
    submit, engine = models.engine.submit, models.engine

    def two_fit(request: EngineRequest, on_event: Any) -> None:
        if len(engine.requests) == 2:
            raise QueueFull("full")
        submit(request, on_event)

    engine.hold = True
    engine.submit = two_fit  # type: ignore[method-assign]
    assert post(client, picture, n=3, stream=stream).status_code == 429
    wait_for(lambda: engine.cancelled == {request.id for request in engine.requests})


@pytest.mark.parametrize("stream", [False, True])
def test_one_that_fails_ends_the_others(client: TestClient, picture: str, models: FakeModels, stream: bool) -> None:
    models.engine.fail = OutOfMemory("the model ran out of memory")
    response = post(client, picture, n=2, stream=stream)
    assert "out_of_memory" in response.text
    assert response.status_code == (200 if stream else 503)


def test_a_hang_up_ends_all_of_them(app: FastAPI, picture: str, models: FakeModels) -> None:
    with live(app) as url:
        models.engine.hold = True
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
        stream = client.chat.completions.create(model=DEMO_MODEL, messages=messages(picture), n=3, stream=True)
        next(iter(stream))
        wait_for(lambda: len(models.engine.requests) == 3)
        stream.close()
        wait_for(lambda: models.engine.cancelled == {request.id for request in models.engine.requests})


# ---- log probabilities


def test_log_probabilities_have_openais_shape(client: TestClient, picture: str) -> None:
    content = post(client, picture, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content] == ["It", " says", " ", "ABC"]  # and not the one that ends the answer
    assert content[0] == {
        "token": "It",
        "logprob": -0.5,
        "bytes": [73, 116],
        "top_logprobs": [
            {"token": "<end>", "logprob": -1.0, "bytes": []},
            {"token": "It", "logprob": -2.0, "bytes": [73, 116]},
        ],
    }
    assert post(client, picture).json()["choices"][0]["logprobs"] is None


def test_log_probabilities_are_streamed(client: TestClient, picture: str) -> None:
    text = post(client, picture, logprobs=True, stream=True).text.replace("data: [DONE]", "")
    choices = [data["choices"][0] for _, data in events_of(text)]
    told = [one["token"] for choice in choices if choice["logprobs"] for one in choice["logprobs"]["content"]]
    assert told == ["It", " says", " ", "ABC"]


# ---- the form of an answer


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "x"}},
    ],
)
def test_a_form_reaches_the_engine(client: TestClient, picture: str, models: FakeModels, form: dict[str, Any]) -> None:
    assert post(client, picture, response_format=form).status_code == 200
    assert post(client, picture, response_format={"type": "text"}).status_code == 200
    assert [request.grammar is not None for request in models.engine.requests] == [True, False]


# ---- sessions


def test_a_session_is_named_and_told_of(client: TestClient, picture: str, models: FakeModels) -> None:
    body = post(client, picture, session="talk").json()
    assert body["session"] == {"hit": True, "reused_tokens": 7, "kept": True}
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}
    assert post(client, picture).json()["session"] is None
    first, second = models.engine.requests
    assert first.session is not None
    assert (first.session.key, len(first.session.pictures)) == ((None, "talk"), 1)
    assert second.session is None
    text = post(client, picture, session="talk", stream=True).text.replace("data: [DONE]", "")
    assert events_of(text)[-1][1]["session"]["kept"]


def test_a_session_is_deleted_once(client: TestClient, picture: str) -> None:
    post(client, picture, session="talk")
    assert client.delete("/v1/sessions/talk").status_code == 204
    gone = client.delete("/v1/sessions/talk")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "session_not_found")


def test_other_pictures_have_another_digest(client: TestClient, picture: str, models: FakeModels) -> None:
    for one in (picture, base64_of(png(9, 9)), picture):
        assert post(client, one, session="talk").status_code == 200
    first, other, again = (request.session.pictures for request in models.engine.requests if request.session)
    assert first == again != other
