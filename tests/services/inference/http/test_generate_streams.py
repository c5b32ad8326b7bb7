from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from headmap.errors import OutOfMemory
from headmap.settings import DEMO_MODEL
from tests.services.inference.asking import QUESTION, ask, events_of
from tests.services.inference.fakes import EOS, FakeModels


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
    last = events[-1][1]
    assert (last["code"], last["status"], last["error_type"]) == ("out_of_memory", 503, "generation")
    assert last["error"] == last["detail"] == "the model ran out of memory"


def test_no_new_tokens_only_prefill_the_prompt(client: TestClient, picture: str) -> None:
    for more in ({}, {"details": True, "top_n_tokens": 2}):
        body = ask(client, picture, max_new_tokens=0, **more).json()
        assert (body["generated_text"], body["details"]["finish_reason"]) == ("", "length")
        assert (body["details"]["generated_tokens"], body["details"]["tokens"]) == (0, [])
        assert body["details"]["kv"]["kept_tokens"] > 0
    asked = {"inputs": "What?", "images": [picture], "parameters": {"max_new_tokens": 0, "top_n_tokens": 2}}
    ((name, last),) = events_of(client.post("/generate_stream", json=asked).text)
    assert (name, last["token"]["text"], last["generated_text"]) == (None, "", "")
    assert last["details"]["generated_tokens"] == 0
