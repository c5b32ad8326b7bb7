from __future__ import annotations

import json
from typing import Any

import pytest

from headmap.engine.sampling.grammar import Grammars
from headmap.errors import InvalidParameter
from headmap.http.costs import Allowance
from services.inference.tools.calls import Tool
from services.inference.tools.forced import forced_schema
from services.inference.tools.requests import Choice, check_tools, history_calls, settle_choice, with_ids_for
from tests.services.inference.fakes import EOS, VOCABULARY

GRAMMARS = Grammars(VOCABULARY, frozenset({EOS}))


def function(name: Any = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_both_forms_of_a_tool_are_read() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = Tool("f", parameters, "Does it.")
    assert check_tools([function(parameters=parameters, description="Does it.", strict=True)]) == (tool,)
    assert check_tools([{"type": "function", "name": "f", "parameters": parameters, "description": "Does it."}]) == (
        tool,
    )
    assert check_tools([function()]) == (Tool("f", {"type": "object"}),)
    assert check_tools([{"type": None, "name": "f", "function": None, "description": None}]) == check_tools(
        [function()]
    )


BAD: list[tuple[list[dict[str, Any]], str]] = [
    ([function(name=None)], "tools.0.function.name"),
    ([function(name="a b")], "tools.0.function.name"),
    ([function(), function()], "tools.1.function.name"),
    ([function(parameters={"type": "array"})], "tools.0.function.parameters"),
    ([function(parameters=[])], "tools.0.function.parameters"),
    ([function(name=f"f{number}") for number in range(129)], "tools"),
    ([{"type": "function", "function": 5}], "tools.0.function"),
    ([function(description=5)], "tools.0.function.description"),
    ([{"type": "web_search"}], "tools.0.type"),
    ([{"type": "function"}], "tools.0.name"),
]


@pytest.mark.parametrize(("tools", "param"), BAD)
def test_a_bad_tool_is_named(tools: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_tools(tools)
    assert caught.value.param == param


CHOICES: list[tuple[Any, Choice]] = [
    (None, Choice("auto")),
    ("none", Choice("none")),
    ("auto", Choice("auto")),
    ("required", Choice("required")),
    ("any", Choice("required")),
    ({"type": "function", "function": {"name": "f"}}, Choice("required", "f")),
    ({"type": "function", "name": "f"}, Choice("required", "f")),
]


@pytest.mark.parametrize(("choice", "settled"), CHOICES)
def test_choices_are_settled(choice: Any, settled: Choice) -> None:
    assert settle_choice(choice, check_tools([function()])) == settled


@pytest.mark.parametrize("choice", ["some", {"type": "function", "name": "g"}, {"type": "allowed_tools"}, {}])
def test_a_bad_choice_is_named(choice: Any) -> None:
    with pytest.raises(InvalidParameter, match="tool_choice"):
        settle_choice(choice, check_tools([function()]))


def test_a_forced_choice_needs_tools() -> None:
    with pytest.raises(InvalidParameter, match="tool_choice"):
        settle_choice("required", ())
    assert settle_choice(None, ()) == Choice("none")


def test_history_has_arguments_as_objects() -> None:
    allowance = Allowance(1000, "characters")
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    assert history_calls(calls, "x", allowance)[0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert (
        history_calls([{"function": {"name": "f", "arguments": ""}}], "x", allowance)[0]["function"]["arguments"] == {}
    )
    for arguments in ("[1]", "{", 5, '{"a": "\\ud800"}', '{"a": NaN}'):
        with pytest.raises(InvalidParameter) as caught:
            history_calls([{"function": {"name": "f", "arguments": arguments}}], "messages.1.tool_calls", allowance)
        assert caught.value.param == "messages.1.tool_calls.0.function.arguments"


def test_a_template_of_short_ids_gets_them() -> None:
    identities = ("call_0123456789abcdef01234567", "c1", "a-b-c-d-e", "AbCdEf012")
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [{"id": one, "function": {"name": "f"}} for one in identities]},
        *({"role": "tool", "content": "42", "tool_call_id": one} for one in identities),
    ]
    assert with_ids_for("{{ tool_call.id }}", messages) == messages
    user, assistant, *answers = with_ids_for("{% if tool_call.id|length != 9 %}", messages)
    calls = [call["id"] for call in assistant["tool_calls"]]
    assert [answer["tool_call_id"] for answer in answers] == calls
    assert all(len(one) == 9 and one.isalnum() for one in calls)
    assert len(set(calls)) == len(calls)
    assert (calls[-1], user) == ("AbCdEf012", messages[0])
    assert messages[1]["tool_calls"][0]["id"] == identities[0]


# ---- the schema that forces a call


NESTED = {
    "type": "object",
    "$defs": {
        "Color": {"enum": ["red", "blue"]},
        "Box": {"type": "object", "properties": {"color": {"$ref": "#/$defs/Color"}}},
    },
    "properties": {"box": {"$ref": "#/$defs/Box"}, "more": {"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}},
    "required": ["box", "more"],
    "additionalProperties": False,
}
RECURSIVE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["next"],
}


def writes(schema: dict[str, Any], value: Any) -> bool:
    """Whether an answer held to `schema` may be `value`."""
    match = GRAMMARS.json_schema(schema, "tools").start()
    for token in VOCABULARY.tokens(json.dumps(value, separators=(",", ":")).encode()):
        if not match.allowed(len(VOCABULARY.pieces))[token]:
            return False
        match.accept(token)
    return bool(match.done or match.allowed(len(VOCABULARY.pieces))[EOS])


def test_a_forced_answer_calls_one_of_the_tools_by_its_own_schema() -> None:
    tools = [Tool("paint", NESTED), Tool("stop", {"type": "object", "additionalProperties": False})]
    schema = forced_schema(tools, None, many=False)
    box = {"box": {"color": "red"}, "more": None}
    assert writes(schema, {"name": "paint", "arguments": box})
    assert writes(schema, {"name": "stop", "arguments": {}})
    assert not writes(schema, {"name": "stop", "arguments": box})
    assert not writes(schema, {"name": "paint", "arguments": {"box": {"color": "green"}, "more": None}})
    many = forced_schema(tools, None, many=True)
    assert writes(many, [{"name": "stop", "arguments": {}}, {"name": "paint", "arguments": box}])
    assert not writes(many, [])
    assert writes(forced_schema(tools, "paint", many=True), box)


ONE_COLOR = {"enum": ["red"]}
OWN_PATHS = [
    {"properties": {"a": ONE_COLOR, "b": {"$ref": "#/properties/a"}}},
    {"properties": {"b": {"$ref": "#/$defs/Color~1of%20it"}}, "$defs": {"Color/of it": ONE_COLOR}},
    {"properties": {"b": {"$ref": "#/definitions/C"}}, "definitions": {"C": ONE_COLOR}},
    {"$id": "https://example.com/b", "properties": {"b": {"$ref": "#/$defs/C"}}, "$defs": {"C": ONE_COLOR}},
    {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"b": ONE_COLOR}},
]


@pytest.mark.parametrize("parameters", OWN_PATHS)
def test_references_within_a_tool_lead_where_they_led(parameters: dict[str, Any]) -> None:
    parameters = {"type": "object", **parameters, "required": ["b"]}
    schema = forced_schema([Tool("paint", parameters), Tool("stop", NESTED)], None, many=False)
    given = {"b": "red"} if "a" not in parameters["properties"] else {"a": "red", "b": "red"}
    assert writes(schema, {"name": "paint", "arguments": given})
    assert not writes(schema, {"name": "paint", "arguments": {**given, "b": "blue"}})


def test_names_and_values_that_read_like_references_stay() -> None:
    odd = {"type": "object", "properties": {"$ref": {"const": {"$ref": "#"}}, "$id": {"enum": ["x"]}}}
    schema = forced_schema([Tool("f", odd)], None, many=False)
    assert schema["$defs"]["tool0"] == odd


def test_a_schema_that_refers_to_itself_stays_itself() -> None:
    schema = forced_schema([Tool("a", RECURSIVE), Tool("b", NESTED)], None, many=False)
    assert writes(schema, {"name": "a", "arguments": {"next": {"next": None}}})
