"""Readers of calls: however an answer is cut into pieces, the same content and calls are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.inference.tools.calls import CallReader, Delta, Tool, fold
from services.inference.tools.forced import ForcedReader
from services.inference.tools.formats import format_of

TOOLS = (
    Tool("look_up", {"type": "object", "properties": {"key": {"type": "string"}, "page": {"type": "integer"}}}),
    Tool("turn", {"type": "object", "properties": {"on": {"type": "boolean"}, "why": {"type": ["string", "null"]}}}),
    Tool("stop", {"type": "object"}),
)
ARGUMENTS = {"key": 'A"}{<tool_call>', "page": 3}
TEMPLATES = {
    "tags": "{% if tools %}<tool_call>{% endif %}",
    "mistral": "[TOOL_CALLS]",
    "llama": 'ipython {"name": ..., "parameters": ...}',
}
WRITTEN: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    ("tags", "Just text.", "Just text.", []),
    ("tags", "Two < three and <tool is no mark", "Two < three and <tool is no mark", []),
    ("tags", f'<tool_call>\n{{"name": "look_up", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>', "",
     [("look_up", ARGUMENTS)]),
    ("tags", 'Wait.\n<tool_call>{"name":"stop","arguments":{}}</tool_call>\n<tool_call>{"name":"stop"}</tool_call>\n',
     "Wait.", [("stop", {}), ("stop", {})]),
    ("tags", "<tool_call>\n<function=look_up>\n<parameter=key>\nABC\n</parameter>\n<parameter=page>\n4\n</parameter>\n"
     "</function>\n</tool_call>", "", [("look_up", {"key": "ABC", "page": 4})]),
    ("tags", "<tool_call>look_up\n<arg_key>key</arg_key>\n<arg_value>12</arg_value>\n<arg_key>page</arg_key>\n"
     "<arg_value>7</arg_value>\n</tool_call>", "", [("look_up", {"key": "12", "page": 7})]),
    ("tags", "<tool_call>turn<arg_key>on</arg_key><arg_value>True</arg_value><arg_key>why</arg_key><arg_value>5"
     "</arg_value></tool_call>", "", [("turn", {"on": True, "why": "5"})]),
    ("tags", "<tool_call>\n<function=turn>\n<parameter=why>\nNone\n</parameter>\n</function>\n</tool_call>", "",
     [("turn", {"why": None})]),
    ("tags", "<tool_call>stop</tool_call>", "", [("stop", {})]),
    ("tags", '<tool_call>{"name": "stop", "arguments": null}</tool_call>', "", [("stop", {})]),
    ("tags", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', "", [("other", {})]),
    ("tags", '<tool_call>{"name": "stop", "arguments": {}}', "", [("stop", {})]),
    ("mistral", '[TOOL_CALLS][{"name": "look_up", "arguments": {"key": "A"}}, {"name": "stop", "arguments": {}}]', "",
     [("look_up", {"key": "A"}), ("stop", {})]),
    ("mistral", '[TOOL_CALLS]look_up[ARGS]{"key": "A"}[TOOL_CALLS]stop[CALL_ID]x1[ARGS]{}', "",
     [("look_up", {"key": "A"}), ("stop", {})]),
    ("mistral", '[TOOL_CALLS]look_up{"key": "A"}', "", [("look_up", {"key": "A"})]),
    ("llama", '{"name": "look_up", "parameters": {"key": "A"}}', "", [("look_up", {"key": "A"})]),
    ("llama", '<|python_tag|>{"name": "stop", "parameters": {}}; {"name": "stop", "parameters": {}}', "",
     [("stop", {}), ("stop", {})]),
    ("llama", '{"name": "look_up", "parameters": {"key": "A; B"}}; {"name": "stop", "parameters": {}}', "",
     [("look_up", {"key": "A; B"}), ("stop", {})]),
]  # fmt: skip

TEXTS = [
    ("tags", "Hi \n<tool_call>{broken</tool_call> and so on"),
    ("tags", "Hi \n<tool_call> word </tool_call>"),
    ("tags", "<tool_call><function=look_up><parameter=key>cut sho"),
    ("tags", "<tool_call><function=look_up><parameter=key>A</parameter><parameter=page>"),
    ("tags", "<tool_call>look_up<arg_key>key</arg_key><arg_value>cut sho"),
    ("tags", '<tool_call>{"name": "look_up", "arguments": {"key": "\\ud800"}}</tool_call>'),
    ("tags", '<tool_call>{"name": "look_up", "arguments": {"page": NaN}}</tool_call>'),
    ("tags", '<tool_call>{"name": "look_up", "arguments": {"page": 1e999}}</tool_call>'),
    ("tags", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("mistral", "No call here [TOOL"),
    ("mistral", "none [TOOL_CALLS] [] "),
    ("llama", '{"answer": 5}'),
    ("llama", '{"name": "Bob", "age": 5}'),
    ("llama", '{"name": "stop", "parameters": {}} and more'),
    ("llama", "Hello {"),
]
"""Answers that hold no call, whatever they begin like."""


def read(make: Callable[[], CallReader], pieces: list[str]) -> tuple[str, list[tuple[str, Any]]]:
    reader = make()
    deltas: list[Delta] = [delta for piece in pieces for delta in reader.feed(piece)]
    content, calls = fold([*deltas, *reader.end()])
    assert len({call.id for call in calls}) == len(calls)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


def maker(template: str) -> Callable[[], CallReader]:
    make = format_of(TEMPLATES[template])
    assert make is not None
    return lambda: make(TOOLS)


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


@pytest.mark.parametrize(("template", "text", "content", "calls"), WRITTEN)
def test_calls_are_read_however_the_text_is_cut(
    template: str, text: str, content: str, calls: list[tuple[str, Any]]
) -> None:
    @given(st.lists(st.integers(0, 1000), max_size=8))
    def check(places: list[int]) -> None:
        assert read(maker(template), cut(text, places)) == (content, calls)

    check()
    assert read(maker(template), list(text)) == (content, calls)


@pytest.mark.parametrize(("template", "text"), TEXTS)
def test_what_is_no_call_stays_the_text_that_it_was(template: str, text: str) -> None:
    assert read(maker(template), [text]) == read(maker(template), list(text)) == (text, [])


PIECES = [
    "<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=k>", "</parameter>", "<arg_key>",
    "</arg_key>", "<arg_value>", "</arg_value>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", '{"name":"',
    '","arguments":', '"parameters":', '{"name":"f","arguments":{}}', '{"k":"v"}', "{", "}", "[", "]", '"', "\\",
    "\\ud800", ",", ":", ";", "<", "f", "NaN", "1e999", "null", "é", " ", "\n", "\u2028",
]  # fmt: skip
ODD = st.lists(st.sampled_from(PIECES), max_size=20)


@given(st.sampled_from(list(TEMPLATES)), ODD)
def test_no_text_breaks_a_reader_and_none_is_lost(template: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    content, calls = read(maker(template), pieces)
    assert (content, calls) == read(maker(template), [text])
    assert calls or content == text
    json.dumps([content, calls], ensure_ascii=False, allow_nan=False).encode()


@example(None, ['{"name":"\\x","arguments":{}}'])
@given(st.none() | st.just("stop"), ODD)
def test_no_text_breaks_the_reader_of_forced_calls(name: str | None, pieces: list[str]) -> None:
    def told(pieces: list[str]) -> list[tuple[str, str]]:
        reader = ForcedReader(name)
        _, calls = fold([*(delta for piece in pieces for delta in reader.feed(piece)), *reader.end()])
        return [(call.name, call.arguments) for call in calls]

    assert told(pieces) == told(["".join(pieces)])


def test_a_template_of_no_known_form_has_no_reader() -> None:
    assert format_of("{{ messages }}{{ tools }}") is None


FORCED: list[tuple[str | None, str, list[tuple[str, Any]]]] = [
    ("look_up", json.dumps(ARGUMENTS, separators=(",", ":")), [("look_up", ARGUMENTS)]),
    (None, json.dumps({"name": "look_up", "arguments": ARGUMENTS}, separators=(",", ":")), [("look_up", ARGUMENTS)]),
    (None, json.dumps([{"name": "stop", "arguments": {}}, {"name": "look_up", "arguments": ARGUMENTS}]),
     [("stop", {}), ("look_up", ARGUMENTS)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "calls"), FORCED)
def test_forced_calls_are_read_however_the_text_is_cut(
    name: str | None, text: str, calls: list[tuple[str, Any]]
) -> None:
    @given(st.lists(st.integers(0, 1000), max_size=8))
    def check(places: list[int]) -> None:
        assert read(lambda: ForcedReader(name), cut(text, places)) == ("", calls)

    check()


def test_a_forced_call_that_is_cut_short_tells_what_there_is() -> None:
    reader = ForcedReader(None)
    _, (call,) = fold([*reader.feed('{"name":"stop","arguments":{"a":"b'), *reader.end()])
    assert (call.name, call.arguments) == ("stop", '{"a":"b')
