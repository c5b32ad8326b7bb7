"""A thousand odd bodies, made of good ones: each is answered, and none with an error of ours."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.settings import Settings
from services.inference.http.app import create_app
from services.inference.http.schemas.fields import Body
from services.inference.http.schemas.openai_chat import ChatRequest
from services.inference.http.schemas.openai_completions import CompletionRequest
from services.inference.http.schemas.responses import ResponsesRequest
from services.inference.http.schemas.tgi import Parameters
from tests.services.inference.conftest import base64_of, png
from tests.services.inference.fakes import FakeModels

URL = f"data:image/png;base64,{base64_of(png())}"
PICTURE = {"type": "image_url", "image_url": {"url": URL}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {
        "messages": [
            {"role": "system", "content": "Be short.", "name": "x"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ],
        "tools": [TOOL], "tool_choice": "auto", "logprobs": True, "top_logprobs": 2, "max_tokens": 3, "stop": ["a"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "kv": {"method": "snapkv", "ratio": 0.5}, "stream_options": {"include_usage": True}, "logit_bias": {"3": 1},
    }),
    ("/v1/completions", {"prompt": ["Hi", "Ho"], "max_tokens": 3, "echo": True, "logprobs": 1, "n": 2, "seed": 5,
                         "structured_outputs": {"choice": ["It", "no"]}, "stop_token_ids": [4]}),
    ("/v1/responses", {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
                  {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "1"}],
        "instructions": "Be short.", "text": {"format": {"type": "text"}}, "tools": [{"type": "function", "name": "f"}],
    }),
    ("/generate", {"inputs": f"![]({URL}) Hi", "parameters": {
        "details": True, "grammar": {"type": "regex", "value": "a"}, "kv": {"budget": 9}, "stop": ["x"],
        "kept": {"layer": 0, "kv_head": 0},
    }}),
    ("/", {"inputs": "Hi", "images": [URL], "parameters": {"temperature": 0.5, "decoder_input_details": True}}),
    ("/generate_stream", {"inputs": "Hi", "parameters": {"top_n_tokens": 2}}),
    ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}], "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2]}),
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 1e-320, 2**63, -(2**70), "", " ", "x" * 5000, "\x00", "\ufffe", "😀", "null",
    [], {}, [[]], [{}], [None], {"": None}, {"type": None}, {"type": "text"}, {"url": 5}, [1, "a"], [["b"]], "auto",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy(empty_registry, folder / "registry.sqlite3")
    app = create_app(Settings(data_dir=folder), open_model=FakeModels())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def oddly(rng: random.Random, body: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The body with one to three things in it replaced, removed or added."""
    odd: dict[str, Any] = json.loads(json.dumps(body))
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.3:
            odd[rng.choice(names)] = rng.choice(ODD)
            continue
        *path, last = rng.choice(list(places(odd)) or [(rng.choice(names),)])
        inner: Any = odd
        for key in path:
            inner = inner[key]
        if rng.random() < 0.2:
            inner.pop(last) if isinstance(inner, list) else inner.pop(last, None)
        else:
            inner[last] = rng.choice(ODD)
    return odd


def names_of(body: type[Body]) -> list[str]:
    return [field.alias or name for name, field in body.model_fields.items()]


@pytest.mark.parametrize("seed", range(4))
def test_no_odd_body_is_an_error_of_ours(client: TestClient, seed: int) -> None:
    rng = random.Random(seed)
    names = sorted({n for b in (ChatRequest, CompletionRequest, ResponsesRequest, Parameters) for n in names_of(b)})
    statuses: dict[int, int] = {}
    for _ in range(250):
        path, body = rng.choice(GOOD)
        odd = oddly(rng, body, names) | rng.choice(({}, {}, {"stream": True}))
        answer = client.post(path, content=json.dumps(odd), headers={"Content-Type": "application/json"})
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (path, odd, answer.text)
        if answer.status_code >= 400:
            told = answer.json()
            assert told["error"]["message"] if path.startswith("/v1") else told["detail"], (path, odd)
    assert statuses[200] > 9, statuses
    assert statuses[400] > 9, statuses
