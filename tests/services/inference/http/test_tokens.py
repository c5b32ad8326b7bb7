from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.services.inference.fakes import IMAGE_TOKENS


def test_texts_and_conversations_are_counted(client: TestClient, picture: str) -> None:
    text = client.post(
        "/tokenize", json={"prompt": "Once", "return_token_strs": True, "add_special_tokens": True}
    ).json()
    assert (text["count"], len(text["tokens"]), len(text["token_strs"])) == (4, 4, 4)
    assert text["max_model_len"] > 0
    url = f"data:image/png;base64,{picture}"
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "What?"}]
    told = client.post("/tokenize", json={"messages": [{"role": "user", "content": content}]}).json()
    assert told["count"] == IMAGE_TOKENS + 5
    assert client.post("/tokenize", json={"prompt": ""}).json()["count"] == 0


def test_text_generation_inferences_form_places_each_token(client: TestClient) -> None:
    answer = client.post("/tokenize", json={"inputs": "Hi", "parameters": {}, "model": "tgi"}).json()
    assert [set(token) for token in answer] == [{"id", "text", "start", "stop"}] * 2


def test_tokens_become_text(client: TestClient) -> None:
    assert client.post("/detokenize", json={"tokens": [1, 2, 3, 4]}).json() == {"prompt": "It says ABC"}
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": "x", "inputs": "y"}, "prompt"),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/tokenize", {"messages": []}, "messages"),
    ("/detokenize", {"tokens": [1, -1]}, "tokens.1"),
    ("/detokenize", {"tokens": [10**9]}, "tokens.0"),
    ("/detokenize", {}, "tokens"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD)
def test_bad_input_names_the_field(client: TestClient, path: str, body: dict[str, Any], param: str) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["param"]) == (422, param)


def test_embeddings_are_not_served_in_openais_shape(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": "x", "model": "y"})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    assert "not served" in answer.json()["error"]["message"]
