"""Tools on chat and in responses: what forces a call, what reads it, what is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.services.inference.asking import events_of
from tests.services.inference.fakes import FakeModels

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a value.",
        "parameters": {"type": "object", "properties": {"key": {"enum": ["A", "B"]}}, "required": ["key"]},
    },
}
STOP = {"type": "function", "function": {"name": "stop"}}
NAMED = {"type": "function", "function": {"name": "look_up"}}
FORCED = ('{"na', 'me":"look_up","argu', 'ments":{"key"', ':"A"}}', "")
TAGGED = ("Let me see.\n<to", 'ol_call>{"name":"look_up",', '"arguments":{"key":"A"}}</tool_call>', "")


def ask(client: TestClient, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL, STOP]}
    return client.post("/v1/chat/completions", json=body | fields)


def streamed(text: str) -> tuple[str, dict[int, dict[str, Any]], str | None]:
    """Content, calls by index, and why it ended."""
    content, calls, why = "", dict[int, dict[str, Any]](), None
    for _, chunk in events_of(text.replace("data: [DONE]", "")):
        choice = chunk["choices"][0]
        content += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls", ()):
            own = calls.setdefault(call["index"], {"arguments": ""})
            if "id" in call:
                own |= {"id": call["id"], "name": call["function"]["name"]}
            own["arguments"] += call["function"]["arguments"]
        why = choice["finish_reason"] or why
    return content, calls, why


@pytest.mark.parametrize(
    ("choice", "words"),
    [("required", FORCED), (NAMED, ('{"key"', ':"A"}', "")), ("any", FORCED)],
)
def test_a_forced_call_is_held_to_the_tools_and_told_as_one(
    client: TestClient, models: FakeModels, choice: Any, words: tuple[str, ...]
) -> None:
    models.engine.words = words
    answer = ask(client, tool_choice=choice)
    assert answer.status_code == 200, answer.text
    assert models.engine.requests[0].grammar is not None
    told = answer.json()["choices"][0]
    assert (told["finish_reason"], told["message"]["content"]) == ("tool_calls", None)
    (call,) = told["message"]["tool_calls"]
    assert call["function"] == {"name": "look_up", "arguments": '{"key":"A"}'}
    content, calls, why = streamed(ask(client, tool_choice=choice, stream=True).text)
    assert (content, why) == ("", "tool_calls")
    assert (calls[0]["name"], calls[0]["arguments"]) == ("look_up", '{"key":"A"}')
    assert calls[0]["id"].startswith("call_")


def test_arguments_come_in_pieces(client: TestClient, models: FakeModels) -> None:
    models.engine.words = FORCED
    text = ask(client, tool_choice="required", stream=True).text
    deltas = [chunk["choices"][0]["delta"] for _, chunk in events_of(text.replace("data: [DONE]", ""))]
    pieces = [d["tool_calls"][0]["function"]["arguments"] for d in deltas if "tool_calls" in d]
    assert pieces == ["", '{"key"', ':"A"}']
    assert deltas[0]["role"] == "assistant"


def test_calls_in_a_templates_own_form_are_read(client: TestClient, models: FakeModels) -> None:
    models.prompt_maker.template_text = "{% if tools %}<tool_call>{% endif %}"
    models.engine.words = TAGGED
    answer = ask(client)
    assert "x-headmap-tools" not in answer.headers
    told = answer.json()["choices"][0]
    assert (told["message"]["content"], told["finish_reason"]) == ("Let me see.", "tool_calls")
    assert told["message"]["tool_calls"][0]["function"]["arguments"] == '{"key":"A"}'
    assert [tool["function"]["name"] for tool in models.prompt_maker.tools] == ["look_up", "stop"]
    assert models.engine.requests[0].grammar is None
    content, calls, why = streamed(ask(client, stream=True).text)
    assert (content, calls[0]["name"], why) == ("Let me see.", "look_up", "tool_calls")


def test_a_template_without_tools_answers_as_text_and_says_so(client: TestClient, models: FakeModels) -> None:
    for stream in (False, True):
        answer = ask(client, stream=stream)
        assert answer.status_code == 200
        assert "knows no tools" in answer.headers["x-headmap-tools"]
    assert not models.prompt_maker.tools
    assert "tool_calls" not in ask(client).json()["choices"][0]["message"]


def test_without_parallel_calls_the_first_is_the_only_one(client: TestClient, models: FakeModels) -> None:
    models.prompt_maker.template_text = "{% if tools %}<tool_call>{% endif %}"
    call = '<tool_call>{"name":"look_up","arguments":{"key":"A"}}</tool_call>'
    models.engine.words = (call, call, "")
    for parallel, count in ((None, 2), (True, 2), (False, 1)):
        message = ask(client, parallel_tool_calls=parallel).json()["choices"][0]["message"]
        assert len(message["tool_calls"]) == count


def test_none_shows_no_tools(client: TestClient, models: FakeModels) -> None:
    models.prompt_maker.template_text = "{% if tools %}<tool_call>{% endif %}"
    assert ask(client, tool_choice="none").json()["choices"][0]["message"]["content"] == "It says ABC"
    assert not models.prompt_maker.tools


def test_a_forced_call_goes_before_another_form(client: TestClient, models: FakeModels) -> None:
    models.engine.words = FORCED
    told = ask(client, tool_choice="required", response_format={"type": "json_object"}).json()["choices"][0]
    assert told["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_short_ends_for_length(client: TestClient, models: FakeModels) -> None:
    models.engine.words = FORCED
    told = ask(client, tool_choice="required", max_tokens=3).json()["choices"][0]
    assert told["finish_reason"] == "length"
    assert told["message"]["tool_calls"][0]["function"]["arguments"] == '{"key"'


def test_the_turns_of_a_tool_loop_reach_the_template(client: TestClient, models: FakeModels) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"key": "A"}'}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "look_up", "content": "42"},
    ]
    for tools in ([TOOL], None):
        assert ask(client, messages=messages, tools=tools).status_code == 200
    _, assistant, tool = models.prompt_maker.conversations[0]
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"key": "A"}
    assert assistant["content"] == []
    assert (tool["role"], tool["tool_call_id"], tool["name"]) == ("tool", "c1", "look_up")


def test_a_template_that_takes_short_ids_gets_them_again_in_the_next_turn(
    client: TestClient, models: FakeModels
) -> None:
    models.prompt_maker.template_text = "{% if tools and tool_call.id|length != 9 %}[TOOL_CALLS]{% endif %}"
    models.engine.words = ('[TOOL_CALLS][{"name":"look_up",', '"arguments":{"key":"A"}}]', "")
    message = ask(client).json()["choices"][0]["message"]
    answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "42"}
    assert ask(client, messages=[{"role": "user", "content": "Hi"}, message, answer]).status_code == 200
    _, assistant, tool = models.prompt_maker.conversations[-1]
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"]
    assert len(tool["tool_call_id"]) == 9


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
    ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
      "properties": {"a": {"type": "no such"}}}}}], "tool_choice": "required"}, "tools"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
     "messages.0.tool_calls.0.function.arguments"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_bad_tools_are_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    answer = ask(client, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


# ---- in responses


def test_a_response_tells_a_call_as_an_item(client: TestClient, models: FakeModels) -> None:
    models.engine.words = FORCED
    flat = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
    body = {"input": "Hi", "tools": [flat], "tool_choice": "required"}
    answer = client.post("/v1/responses", json=body).json()
    (item,) = answer["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "look_up", '{"key":"A"}')
    text = client.post("/v1/responses", json=body | {"stream": True}).text
    names = [name for name, _ in events_of(text)]
    assert names[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert names[-3:] == [
        "response.function_call_arguments.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    last = events_of(text)[-1][1]["response"]["output"][0]
    assert last["arguments"] == '{"key":"A"}'
    output = {"type": "function_call_output", "call_id": item["call_id"], "output": "42"}
    models.engine.words = ("It", " is 42", "")
    further = {"input": [output], "previous_response_id": answer["id"]}
    assert client.post("/v1/responses", json=further).json()["output"][0]["content"][0]["text"] == "It is 42"
    reference = {"input": ["Hi", {"type": "item_reference", "id": item["id"]}, output]}
    reference["input"][0] = {"role": "user", "content": "Hi"}
    assert client.post("/v1/responses", json=reference).status_code == 200
    roles = [message["role"] for message in models.prompt_maker.conversations[-1]]
    assert roles == ["user", "assistant", "tool"]
    assert json.loads(json.dumps(models.prompt_maker.conversations[-1][1]["tool_calls"]))[0]["id"] == item["call_id"]
