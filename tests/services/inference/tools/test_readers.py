"""Readers of calls: however an answer is cut into pieces, the same content and calls are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.tools.calls import CallReader, Delta, Tool, fold
from services.inference.tools.forced import ForcedReader
from services.inference.tools.formats import format_of

TOOLS = (
    Tool("look_up", {"type": "object", "properties": {"key": {"type": "string"}, "page": {"type": "integer"}}}),
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
    ("tags", "<tool_call>{broken</tool_call> and so on", "<tool_call>{broken</tool_call> and so on", []),
    ("tags", '<tool_call>{"name": "stop", "arguments": {}}', "", [("stop", {})]),
    ("mistral", '[TOOL_CALLS][{"name": "look_up", "arguments": {"key": "A"}}, {"name": "stop", "arguments": {}}]', "",
     [("look_up", {"key": "A"}), ("stop", {})]),
    ("mistral", '[TOOL_CALLS]look_up[ARGS]{"key": "A"}[TOOL_CALLS]stop[CALL_ID]x1[ARGS]{}', "",
     [("look_up", {"key": "A"}), ("stop", {})]),
    ("mistral", "No call here [TOOL", "No call here [TOOL", []),
    ("llama", '{"name": "look_up", "parameters": {"key": "A"}}', "", [("look_up", {"key": "A"})]),
    ("llama", '<|python_tag|>{"name": "stop", "parameters": {}}; {"name": "stop", "parameters": {}}', "",
     [("stop", {}), ("stop", {})]),
    ("llama", '{"answer": 5}', '{"answer": 5}', []),
    ("llama", "Hello {", "Hello {", []),
]  # fmt: skip


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


@given(
    st.sampled_from(list(TEMPLATES)),
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "{", "}", '"name"', ":", " ", "x"])
    ),
)
def test_no_text_is_lost_or_breaks_a_reader(template: str, pieces: list[str]) -> None:
    content, calls = read(maker(template), pieces)
    assert calls or content.replace(" ", "") == "".join(pieces).replace(" ", "")


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
