"""What becomes of each field: the table that the requests' classes are, against the routes that read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from headmap.settings import Settings
from services.cli.fields_table import with_tables
from services.inference.http.app import create_app
from services.inference.http.schemas.fields import Body, Ignored, Marked, Only, Refused, mark_of
from services.inference.http.schemas.openai_chat import ChatRequest
from services.inference.http.schemas.openai_completions import CompletionRequest
from services.inference.http.schemas.responses import ResponsesRequest
from services.inference.http.schemas.tgi import Parameters
from tests.services.inference.fakes import FakeModels

ROUTES: dict[type[Body], tuple[str, dict[str, Any], str | None]] = {
    ChatRequest: ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, None),
    CompletionRequest: ("/v1/completions", {"prompt": "Hi"}, None),
    ResponsesRequest: ("/v1/responses", {"input": "Hi"}, None),
    Parameters: ("/generate", {"inputs": "Hi"}, "parameters"),
}
MARKED = [
    (body, name, mark)
    for body in ROUTES
    for name, field in body.model_fields.items()
    if (mark := mark_of(field)) is not None
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[TestClient]:
    """One for all: no test here leaves anything behind. `models` are its own."""
    folder = tmp_path_factory.mktemp("fields")
    shutil.copy(empty_registry, folder / "registry.sqlite3")
    with TestClient(create_app(Settings(data_dir=folder), open_model=MODELS), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def models() -> FakeModels:
    MODELS.engine.requests.clear()
    MODELS.prompt_maker.images.clear()
    return MODELS


MODELS = FakeModels()


def ask(client: TestClient, body: type[Body], **fields: Any) -> Any:
    path, base, within = ROUTES[body]
    return client.post(path, json=base | ({within: fields} if within else fields))


@pytest.mark.parametrize(
    ("body", "name", "mark"),
    MARKED,
    ids=lambda one: one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__),
)
def test_each_field_that_is_not_served_meets_its_fate(
    client: TestClient, body: type[Body], name: str, mark: Marked
) -> None:
    odd = {"some": ["thing", 7]}
    if isinstance(mark, Ignored):
        assert ask(client, body, **{name: odd}).status_code == 200
    elif isinstance(mark, Only):
        for value in mark.values:
            assert ask(client, body, **{name: value}).status_code == 200, value
    if isinstance(mark, Only | Refused):
        answer = ask(client, body, **{name: odd})
        told = answer.json()
        detail = told["detail"] if "detail" in told else told["error"]["message"]
        assert answer.status_code in (400, 422)
        assert f"{name}: not served" in detail
        assert detail.count(name) == 1, "one error for one fault"


@pytest.mark.parametrize("body", ROUTES)
def test_nulls_of_every_known_field_mean_absent(client: TestClient, body: type[Body]) -> None:
    optional = [name for name, field in _fields(body) if not field.is_required()]
    assert ask(client, body, **dict.fromkeys(optional)).status_code == 200


def test_nulls_inside_of_fields_mean_absent_too(client: TestClient) -> None:
    parts = [{"type": "text", "text": "Hi", "cache_control": None, "id": None}]
    messages = [
        {"role": "user", "content": parts, "name": None, "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": None, "refusal": None, "audio": None},
        {"role": "user", "content": "more"},
    ]
    body = {"messages": messages, "stream_options": {"include_usage": None}, "kv": {"method": "full", "ratio": None}}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


NEUTRAL: dict[str, Any] = {
    "min_p": 0, "min_tokens": 0, "best_of": 1, "do_sample": False, "length_penalty": 1, "skip_special_tokens": True,
    "stop_token_ids": [], "mm_processor_kwargs": {}, "priority": 0, "service_tier": "default", "store": True,
    "cache_salt": "x", "request_id": "y", "logit_bias": {}, "stop": "", "user": "z", "presence_penalty": 0,
    "frequency_penalty": 0.0, "repetition_penalty": 1.0, "n": 1.0, "seed": -3,
    "stream_options": {"include_obfuscation": True},
}  # fmt: skip
CHAT_NEUTRAL: dict[str, Any] = {
    "echo": False, "add_generation_prompt": True, "continue_final_message": False,
    "chat_template_kwargs": {"enable_thinking": False},
    "parallel_tool_calls": True, "tools": [], "tool_choice": "none", "functions": [], "top_logprobs": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", [*NEUTRAL, *CHAT_NEUTRAL])
def test_values_that_change_nothing_pass(client: TestClient, models: FakeModels, name: str) -> None:
    values = NEUTRAL | CHAT_NEUTRAL
    assert ask(client, ChatRequest, **{name: values[name]}).status_code == 200
    if name in NEUTRAL:
        assert ask(client, CompletionRequest, **{name: values[name]}).status_code == 200
    plain = ask(client, ChatRequest, seed=1)
    assert plain.status_code == 200
    given, without = models.engine.requests[0].sampling, models.engine.requests[-1].sampling
    assert (given.do_sample, given.greedy, given.penalises) == (without.do_sample, True, False)


def test_numbers_that_are_whole_are_integers(client: TestClient, models: FakeModels) -> None:
    assert (
        ask(
            client, ChatRequest, max_tokens=17.0, seed=2.0, top_k=3.0, kv={"method": "snapkv", "budget": 9.0}
        ).status_code
        == 200
    )
    sampling = models.engine.requests[0].sampling
    assert (sampling.max_new_tokens, sampling.seed, sampling.top_k) == (17, 2, 3)
    for value in (17.5, "17", True):
        assert ask(client, ChatRequest, max_tokens=value).status_code == 400


SERVED: list[tuple[dict[str, Any], str, Any]] = [
    ({"min_p": 0.1}, "min_p", 0.1),
    ({"min_tokens": 2, "max_tokens": 5}, "min_tokens", 2),
    ({"presence_penalty": 0.5}, "presence_penalty", 0.5),
    ({"frequency_penalty": -1}, "frequency_penalty", -1),
    ({"logit_bias": {"5": -100, "7": 2.5}}, "logit_bias", {5: -100, 7: 2.5}),
    ({"stop_token_ids": [3, 4]}, "stop_token_ids", frozenset({3, 4})),
    ({"seed": -(2**63)}, "seed", -(2**63)),
    ({"seed": 2**63 - 1}, "seed", 2**63 - 1),
    ({"stop": [str(n) for n in range(16)]}, "stop", tuple(str(n) for n in range(16))),
    ({"temperature": 1e-38}, "greedy", True),
    ({"temperature": 1e-300, "top_p": 1e-300}, "greedy", True),
    ({"temperature": 0, "do_sample": True}, "greedy", True),
    ({"top_p": 0}, "greedy", True),
    ({"do_sample": True}, "do_sample", True),
    ({"min_p": 0.2}, "do_sample", True),
]


@pytest.mark.parametrize(("fields", "name", "value"), SERVED)
@pytest.mark.parametrize("body", [ChatRequest, CompletionRequest])
def test_sampling_fields_reach_the_engine(
    client: TestClient, models: FakeModels, body: type[Body], fields: dict[str, Any], name: str, value: Any
) -> None:
    answer = ask(client, body, **fields)
    assert answer.status_code == 200, answer.text
    assert getattr(models.engine.requests[0].sampling, name) == value


FORMS: list[tuple[dict[str, Any], str]] = [
    ({"structured_outputs": {"json": {"type": "object"}}}, "object"),
    ({"structured_outputs": {"json": '{"type": "integer"}'}}, "text"),
    ({"structured_outputs": {"regex": "[a-z]+"}}, "regex"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, "choice"),
    ({"structured_outputs": {"json_object": True}}, "any object"),
    ({"guided_json": {"type": "object"}}, "guided"),
    ({"guided_regex": "a|b"}, "guided regex"),
    ({"guided_choice": ["a", "b"]}, "guided choice"),
    ({"guided_grammar": 'start: "a" | "b"'}, "lark"),
    ({"guided_grammar": 'root ::= "a" | "b"'}, "gbnf"),
    ({"response_format": {"type": "json_object", "value": {"type": "object"}}}, "as huggingface_hub has it"),
    ({"response_format": {"type": "json", "value": {"type": "object"}}}, "as text-generation-inference has it"),
]


@pytest.mark.parametrize(("fields", "about"), FORMS)
def test_forms_of_answers_make_a_grammar(
    client: TestClient, models: FakeModels, fields: dict[str, Any], about: str
) -> None:
    answer = ask(client, ChatRequest, **fields)
    assert answer.status_code == 200, answer.text
    assert models.engine.requests[0].grammar is not None


def test_an_answer_has_one_form(client: TestClient) -> None:
    answer = ask(client, ChatRequest, guided_regex="a", guided_choice=["b"])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "guided_choice")


BAD: list[tuple[type[Body], dict[str, Any], str]] = [
    (ChatRequest, {"presence_penalty": 3}, "presence_penalty"),
    (ChatRequest, {"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
    (ChatRequest, {"logit_bias": {"x": 1}}, "logit_bias"),
    (ChatRequest, {"logit_bias": {"5": 101}}, "logit_bias"),
    (ChatRequest, {"logit_bias": {"99999999": 1}}, "logit_bias"),
    (ChatRequest, {"stop_token_ids": [-1]}, "stop_token_ids"),
    (ChatRequest, {"stop": ["a"] * 17}, "stop"),
    (ChatRequest, {"seed": 2**63}, "seed"),
    (ChatRequest, {"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
    (ChatRequest, {"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    (ChatRequest, {"guided_json": "[1]"}, "guided_json"),
    (ChatRequest, {"structured_outputs": {"surprise": 1}}, "structured_outputs.surprise"),
    (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    (
        ChatRequest,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages.0.content.0.text",
    ),
    (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type"),
    (ChatRequest, {"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0.type"),
    (ChatRequest, {"messages": [{"role": "user"}]}, "messages.0.content"),
    (ChatRequest, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    (ChatRequest, {"messages": [{"role": "judge", "content": "x"}]}, "messages.0.role"),
    (ChatRequest, {"messages": ["x"]}, "messages.0"),
    (ChatRequest, {"stream_options": 5}, "stream_options"),
    (ChatRequest, {"kvv": {}}, "kvv"),
    (CompletionRequest, {"prompt": [1, -1]}, "prompt"),
    (CompletionRequest, {"prompt": [1, "x"]}, "prompt.1"),
    (ResponsesRequest, {"input": [{"type": "web_search_call"}]}, "input.0.type"),
    (ResponsesRequest, {"input": []}, "input"),
    (ResponsesRequest, {"previous_response_id": "resp_x"}, "previous_response_id"),
    (ResponsesRequest, {"max_output_tokens": 0}, "max_output_tokens"),
]


@pytest.mark.parametrize(("body", "fields", "param"), BAD)
def test_errors_name_the_clients_own_field(
    client: TestClient, body: type[Body], fields: dict[str, Any], param: str
) -> None:
    answer = ask(client, body, **fields)
    error = answer.json()["error"]
    assert answer.status_code == (404 if param == "previous_response_id" else 400), error
    assert error["param"] == param, error
    assert error["message"].startswith(param)
    assert "sent as application/json" not in error["message"]
    assert ";" not in error["message"], "one error for one fault"


def test_unknown_fields_of_messages_are_ignored_and_told(client: TestClient, models: FakeModels) -> None:
    part = {"type": "text", "text": "Hi", "surprise": 1}
    messages = [{"role": "user", "content": [part], "näme": 2}]
    answer = ask(client, ChatRequest, messages=messages)
    assert answer.status_code == 200
    assert answer.headers["x-headmap-ignored"] == "messages.0.n%C3%A4me, messages.0.content.0.surprise"
    assert "x-headmap-ignored" not in ask(client, ChatRequest).headers
    streamed = ask(client, ChatRequest, messages=messages, stream=True)
    assert "surprise" in streamed.headers["x-headmap-ignored"]


def test_unknown_fields_of_messages_can_be_refused(settings: Settings) -> None:
    strict = settings.model_copy(update={"unknown_fields": "refuse"})
    with TestClient(create_app(strict, open_model=FakeModels())) as client:
        answer = ask(client, ChatRequest, messages=[{"role": "user", "content": "Hi", "surprise": 1}])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.0.surprise")


MESSAGES: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": [{"text": "Hi"}]}],
    [{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "Hi"}]}],
    [{"role": "assistant"}, {"role": "user", "content": "Hi"}],
    [
        {"role": "assistant", "content": None, "reasoning": "x", "reasoning_content": "y"},
        {"role": "user", "content": "Hi"},
    ],
    [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "Hi", "name": "ann", "id": "1", "metadata": {"a": 1}, "cache_control": {"type": "e"}}],
    [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "e"}, "uuid": "u"}]}],
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Go on."},
    ],
]


@pytest.mark.parametrize("messages", MESSAGES)
def test_usual_forms_of_messages_are_served(client: TestClient, messages: list[dict[str, Any]]) -> None:
    answer = ask(client, ChatRequest, messages=messages)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("role", ["user", "system"])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("detail", [None, "original"])
def test_a_picture_alone_is_served(
    client: TestClient, picture: str, models: FakeModels, role: str, plain: bool, detail: str | None
) -> None:
    url = f"data:image/png;base64,{picture}"
    part = {"type": "image_url", "image_url": url if plain else {"url": url, "detail": detail}}
    answer = ask(client, ChatRequest, messages=[{"role": role, "content": [part]}])
    assert answer.status_code == 200, answer.text
    assert len(models.prompt_maker.images) == 1


def test_the_tables_of_the_documents_are_current() -> None:
    document = Path(__file__).parents[4] / "docs" / "serving.md"
    text = document.read_text(encoding="utf-8")
    assert with_tables(text) == text, "python -m services.cli.fields_table rewrites them"


def test_the_openapi_document_tells_each_fate(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for body, name, mark in MARKED:
        told = schemas[body.__name__]["properties"][body.model_fields[name].alias or name]
        assert told["description"], (name, mark)


def _fields(body: type[Body]) -> list[tuple[str, Any]]:
    return [(field.alias or name, field) for name, field in body.model_fields.items()]
