"""POST /v1/responses: OpenAI's own client, conversations that go on, events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.errors import OutOfMemory
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.services.inference.asking import events_of
from tests.services.inference.conftest import live
from tests.services.inference.fakes import FakeModels


@pytest.fixture
def server(app: FastAPI) -> Iterator[openai.OpenAI]:
    with live(app) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def post(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/responses", json={"input": "Hi", **fields})


def text_of(answer: Any) -> str:
    return "".join(part["text"] for item in answer.json()["output"] for part in item["content"])


def test_the_openai_client_gets_a_response_and_goes_on(server: openai.OpenAI, picture: str, models: FakeModels) -> None:
    content: Any = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{picture}", "detail": "auto"},
    ]
    first = server.responses.create(
        model=DEMO_MODEL, instructions="Be short.", input=[{"role": "user", "content": content}], temperature=0.5
    )
    assert (first.output_text, first.status, first.model) == ("It says ABC", "completed", DEMO_MODEL)
    assert first.usage is not None
    assert first.usage.total_tokens == first.usage.input_tokens + 5
    server.responses.create(model=DEMO_MODEL, input="And what else?", previous_response_id=first.id)
    turns = models.prompt_maker.conversations
    assert [message["role"] for message in turns[0]] == ["system", "user"]
    assert [message["role"] for message in turns[1]] == ["user", "assistant", "user"]
    assert [part["type"] for part in turns[1][0]["content"]] == ["text", "image"]
    assert len(models.prompt_maker.images) == 2
    sessions = {request.session.key for request in models.engine.requests if request.session is not None}
    assert len(sessions) == 1, "one chain of responses is one session"
    assert server.responses.retrieve(first.id).output_text == "It says ABC"
    server.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        server.responses.retrieve(first.id)


def test_the_openai_client_streams(server: openai.OpenAI) -> None:
    with server.responses.stream(model=DEMO_MODEL, input="Hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas == ["It", " says", " ", "ABC"]
    assert final.output_text == "It says ABC"


def test_events_are_numbered_and_end_with_the_response_of_a_whole_answer(client: TestClient) -> None:
    whole = post(client, max_output_tokens=3).json()
    events = events_of(post(client, max_output_tokens=3, stream=True).text)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert all(name == event["type"] for name, event in events)
    last = events[-1][1]["response"]
    assert (events[-1][0], last["status"]) == ("response.incomplete", "incomplete")
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    varying = ("id", "created_at")
    for document in (whole, last):
        for name in varying:
            document.pop(name)
        for item in document["output"]:
            item.pop("id")
    assert last == whole


def test_a_response_that_is_not_stored_is_gone(client: TestClient, models: FakeModels) -> None:
    identity = post(client, store=False).json()["id"]
    assert models.engine.requests[0].session is None
    answer = post(client, previous_response_id=identity)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")


def test_memory_for_responses_is_bounded(settings: Settings, models: FakeModels) -> None:
    small = settings.model_copy(update={"response_memory_bytes": 3000})
    with TestClient(create_app(small, open_model=models)) as client:
        ids = [post(client).json()["id"] for _ in range(4)]
        assert [client.get(f"/v1/responses/{one}").status_code for one in ids] == [404, 404, 200, 200]
        assert client.get(f"/v1/responses/{post(client, input='x' * 2500).json()['id']}").status_code == 404


def test_the_form_of_the_answer_is_text_format(client: TestClient, models: FakeModels) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    asked = {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": schema}}
    answer = post(client, text=asked)
    assert answer.status_code == 200
    assert answer.json()["text"]["format"]["schema"] == schema
    assert models.engine.requests[0].grammar is not None
    bad = post(client, text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "text.format.schema")


def test_a_failing_stream_says_so(client: TestClient, models: FakeModels) -> None:
    models.engine.fail = OutOfMemory("the model ran out of memory")
    name, event = events_of(post(client, stream=True).text)[-1]
    assert (name, event["response"]["status"]) == ("response.failed", "failed")
    assert event["response"]["error"] == {"code": "server_error", "message": "the model ran out of memory"}


def test_usual_items_are_taken(client: TestClient, models: FakeModels) -> None:
    items = [
        {"role": "system", "content": "Be short."},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Please."}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes?", "annotations": []}],
            "id": "m",
            "status": "completed",
        },
        {"role": "user", "content": "Hi", "surprise": 1},
    ]
    answer = post(client, input=items, include=["reasoning.encrypted_content"], reasoning={"effort": "low"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-headmap-ignored"] == "input.4.surprise"
    assert [m["role"] for m in models.prompt_maker.conversations[0]] == ["system", "system", "assistant", "user"]
