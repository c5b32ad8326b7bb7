"""What a body costs once it is parsed: errors, searches and JSON inside of texts are bounded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from headmap.http.costs import MAX_DETAIL, MAX_ERRORS, MAX_NESTED_JSON
from headmap.settings import Settings
from services.inference.http.app import create_app
from services.inference.http.schemas.fields import Body, unknown_fields
from services.inference.http.schemas.openai_chat import ChatRequest
from services.inference.http.schemas.openai_completions import CompletionRequest
from services.inference.http.schemas.responses import ResponsesRequest
from services.inference.http.schemas.tgi import GenerateRequest
from services.inference.http.schemas.tokens import DetokenizeRequest, TokenizeRequest
from tests.services.inference.fakes import FakeModels

BODIES: list[type[Body]] = [
    ChatRequest, CompletionRequest, ResponsesRequest, GenerateRequest, TokenizeRequest, DetokenizeRequest,
]  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
MANY = 2000
LONG = "x" * (MAX_NESTED_JSON + 1)
HALF = {"name": "f", "arguments": json.dumps({"a": LONG[: 2 * MAX_NESTED_JSON // 3]})}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[TestClient]:
    """One for all: no test here leaves anything behind."""
    folder = tmp_path_factory.mktemp("costs")
    shutil.copy(empty_registry, folder / "registry.sqlite3")
    with TestClient(create_app(Settings(data_dir=folder), open_model=FakeModels())) as client:
        yield client


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema within one of pydantic's."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from schemas(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from schemas(inner)


@pytest.mark.parametrize("body", BODIES)
def test_every_list_of_a_body_stops_at_its_first_fault(body: type[Body]) -> None:
    lists = [schema for schema in schemas(body.__pydantic_core_schema__) if schema.get("type") == "list"]
    assert lists
    assert all(schema.get("fail_fast") for schema in lists)


WRONG: list[tuple[type[Body], dict[str, Any]]] = [
    (GenerateRequest, {"inputs": "", "images": [1] * MANY}),
    (GenerateRequest, {"inputs": "", **{f"f{n}": n for n in range(MANY)}}),
    (GenerateRequest, {"inputs": "", "parameters": {f"f{n}": n for n in range(MANY)}}),
    (ChatRequest, {"messages": [1] * MANY}),
    (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text"}] * MANY}]}),
    (ChatRequest, {**CHAT, "logit_bias": {str(n): "x" for n in range(MANY)}}),
    (ChatRequest, {**CHAT, "tools": ["x"] * 100}),
    (ChatRequest, {**CHAT, "stop": [1] * MANY}),
    (ChatRequest, {**CHAT, "guided_choice": [1] * MANY}),
    (CompletionRequest, {"prompt": [1.5] * MANY}),
    (CompletionRequest, {"prompt": [["x"] * MANY] * 10}),
    (ResponsesRequest, {"input": [{}] * MANY}),
    (DetokenizeRequest, {"tokens": ["x"] * MANY}),
]


@pytest.mark.parametrize(("body", "value"), WRONG, ids=lambda value: "" if isinstance(value, dict) else value.__name__)
def test_a_body_wrong_everywhere_has_few_errors(body: type[Body], value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        body.model_validate(value)
    assert caught.value.error_count() <= MAX_ERRORS


def test_few_of_many_unknown_fields_are_looked_for() -> None:
    more = {f"f{n}": [1] * 10 for n in range(MANY)}
    body = ChatRequest.model_validate({"messages": [{**CHAT["messages"][0], **more}]})
    assert len(list(unknown_fields(body))) == MAX_ERRORS


# A form of answers is refused as invalid, by its own bounds: 400 under /v1, 422 elsewhere.
DEAR: list[tuple[str, dict[str, Any], str, int]] = [
    ("/v1/chat/completions", {**CHAT, "guided_json": json.dumps({"const": LONG})}, "guided_json", 413),
    ("/v1/chat/completions", {**CHAT, "guided_json": {"const": LONG}}, "guided_json", 400),
    ("/v1/chat/completions", {**CHAT, "guided_regex": LONG}, "guided_regex", 400),
    ("/v1/chat/completions", {**CHAT, "structured_outputs": {"choice": [LONG]}}, "structured_outputs.choice", 400),
    (
        "/v1/chat/completions",
        {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
        "tools",
        413,
    ),
    ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"a": LONG}}, "chat_template_kwargs", 413),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": json.dumps({"a": LONG[:700_000]})}}],
                }
            ]
            * 2
        },
        "messages.1.tool_calls.0.function.arguments",
        413,
    ),
    (
        "/v1/responses",
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps({"a": LONG})}]},
        "input.0.0.function.arguments",
        413,
    ),
    (
        "/generate",
        {"inputs": "Hi", "parameters": {"grammar": {"type": "json", "value": {"a": LONG}}}},
        "parameters.grammar",
        422,
    ),
]


@pytest.mark.parametrize(("path", "body", "named", "status"), DEAR, ids=[named for _, _, named, _ in DEAR])
def test_json_of_no_fixed_shape_is_bounded(
    client: TestClient, path: str, body: dict[str, Any], named: str, status: int
) -> None:
    answer = client.post(path, json=body)
    error = answer.json().get("error")
    param = error["param"] if isinstance(error, dict) else answer.json()["param"]
    assert (answer.status_code, param) == (status, named)


@pytest.mark.parametrize(
    "body",
    [
        {LONG: 1},
        {LONG: 1, "inputs": []},
        {"inputs": {LONG: LONG}},
        {"inputs": "", "model": LONG},
        {"inputs": "", "parameters": {"grammar": {"type": LONG}}},
        {"inputs": "", "parameters": {"kv": {"method": LONG}}},
        {"inputs": "", "parameters": {LONG: LONG}},
        {"inputs": "", "images": [LONG]},
        {"inputs": "", "images": [f"ftp:{LONG}"]},
        {f"f{n}": LONG[:50_000] for n in range(40)},
    ],
)
def test_a_refusal_is_small(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/generate", json=body)
    assert 400 <= answer.status_code < 500
    assert 0 < len(answer.json()["detail"]) <= MAX_DETAIL
    assert len(answer.content) < 3 * MAX_DETAIL


@pytest.mark.parametrize("value", [1e-38, 1e-46, 5e-324])
@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty", "min_p"])
def test_next_to_nothing_is_no_error_of_ours(client: TestClient, name: str, value: float) -> None:
    parameters = {name: value, "max_new_tokens": 1}
    assert client.post("/generate", json={"inputs": "Hi", "parameters": parameters}).status_code == 200
    assert client.post("/v1/chat/completions", json={**CHAT, name: value, "max_tokens": 1}).status_code == 200
