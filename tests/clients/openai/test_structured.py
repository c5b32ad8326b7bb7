"""openai's own ways to answers of a form: parse, streams, tools; and the same over /v1/responses."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

pytestmark = pytest.mark.slow


class Reading(BaseModel):
    """What was read on a page."""

    key: Literal["BXP"]
    legible: bool


@pytest.fixture
def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def messages(picture: str, question: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


@pytest.fixture
def items(picture: str, question: str) -> list[Any]:
    """The same question as /v1/responses wants it."""
    parts = [{"type": "input_image", "image_url": picture}, {"type": "input_text", "text": question}]
    return [{"role": "user", "content": parts}]


def test_an_answer_is_parsed(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    found = client.chat.completions.parse(model=model, messages=messages, response_format=Reading)
    assert found.choices[0].message.parsed is not None
    assert found.choices[0].finish_reason == "stop"


def test_a_stream_is_parsed(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    with client.chat.completions.stream(model=model, messages=messages, response_format=Reading) as stream:
        assert stream.get_final_completion().choices[0].message.parsed is not None


@pytest.mark.parametrize("named", [True, False])
def test_tools_are_called(client: openai.OpenAI, model: str, messages: list[Any], named: bool) -> None:
    tool = openai.pydantic_function_tool(Reading)
    choice: Any = {"type": "function", "function": {"name": "Reading"}} if named else "required"
    asked: Any = {"model": model, "messages": messages, "tools": [tool], "tool_choice": choice}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or ()
    assert call.type == "function"
    assert Reading.model_validate_json(call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert streamed.function.parsed_arguments == Reading.model_validate_json(call.function.arguments)


def test_a_tools_answer_goes_back(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    asked: Any = {"model": model, "tools": [openai.pydantic_function_tool(Reading)]}
    turn = client.chat.completions.create(**asked, messages=messages, tool_choice="required").choices[0].message
    told = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in turn.tool_calls or ()]
    found = client.chat.completions.create(**asked, messages=[*messages, turn, *told], max_tokens=16)
    assert found.choices[0].finish_reason in ("stop", "length")


def test_the_last_tokens_log_probability_is_streamed(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    asked: Any = {"model": model, "messages": messages, "max_tokens": 16, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    chunks = client.chat.completions.create(**asked, stream=True)
    told = [chunk.choices[0].logprobs for chunk in chunks]
    streamed = [one for part in told if part is not None for one in part.content or ()]
    assert whole is not None
    assert [one.token for one in streamed] == [one.token for one in whole.content or ()]
    assert [one.logprob for one in streamed] == pytest.approx([one.logprob for one in whole.content or ()])


def test_responses_answer(client: openai.OpenAI, model: str, items: list[Any], answer: str) -> None:
    found = client.responses.create(model=model, input=items)
    assert (found.output_text, found.status) == (answer, "completed")
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens
    with client.responses.stream(model=model, input=items) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == answer
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_responses_are_parsed(client: openai.OpenAI, model: str, items: list[Any]) -> None:
    found = client.responses.parse(model=model, input=items, text_format=Reading)
    assert found.output_parsed is not None
    with client.responses.stream(model=model, input=items, text_format=Reading) as stream:
        assert stream.get_final_response().output_parsed == found.output_parsed


def test_responses_call_tools(client: openai.OpenAI, model: str, items: list[Any]) -> None:
    parameters = {**Reading.model_json_schema(), "additionalProperties": False}
    asked: Any = {
        "model": model,
        "tools": [{"type": "function", "name": "read", "parameters": parameters, "strict": True}],
    }
    (call,) = client.responses.create(**asked, input=items, tool_choice="required").output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["key"] == "BXP"
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    found = client.responses.create(**asked, input=[*items, call, told], max_output_tokens=16)
    assert found.status in ("completed", "incomplete")


def test_a_response_goes_on_from_another(client: openai.OpenAI, model: str, items: list[Any], question: str) -> None:
    first = client.responses.create(model=model, input=items)
    found = client.responses.create(model=model, input=question, previous_response_id=first.id, max_output_tokens=16)
    assert found.previous_response_id == first.id
    assert found.usage is not None
    assert first.usage is not None
    assert found.usage.input_tokens > first.usage.input_tokens


def test_a_budget_is_part_of_a_models_name(client: openai.OpenAI, model: str, messages: list[Any]) -> None:
    asked: Any = {"messages": messages, "max_tokens": 4}
    whole = client.chat.completions.with_raw_response.create(model=f"{model}@full", **asked)
    part = client.chat.completions.with_raw_response.create(model=f"{model}@snapkv-0.2", **asked)
    header = client.chat.completions.with_raw_response.create(
        model=model, **asked, extra_headers={"x-headmap-kv": "method=snapkv; ratio=0.2"}
    )
    assert "method=full" in whole.headers["x-headmap-kv"]
    assert "method=snapkv" in part.headers["x-headmap-kv"]
    assert header.headers["x-headmap-kv"] == part.headers["x-headmap-kv"]
