"""`<tool_call>` ... `</tool_call>`: Hermes' JSON (Qwen2.5, Qwen3, InternVL3.5), Qwen3-Coder's and GLM's tags inside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from services.inference.tools.blocks import BlockReader, Found, call_of, named, read_json
from services.inference.tools.calls import Tool

OPENING, CLOSING = "<tool_call>", "</tool_call>"

_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = ("<parameter=", ">", "</parameter>")
_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*((?:<arg_key>.*)?)", re.DOTALL)
_ARGUMENT = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
_PYTHON = {"True": True, "False": False, "None": None}
"""Qwen3-Coder's template writes values of earlier calls so, and the model goes on like that."""


def is_written_by(template: str) -> bool:
    return OPENING in template


def reader(tools: Sequence[Tool]) -> BlockReader:
    return BlockReader(OPENING, CLOSING, partial(_calls, tools), markers=(OPENING, CLOSING, *_ARGUMENT))


def _calls(tools: Sequence[Tool], body: str) -> Found | None:
    call = call_of(read_json(body)) or _tagged(tools, body)
    return [call] if call is not None else None


def _tagged(tools: Sequence[Tool], body: str) -> tuple[str, str] | None:
    """A call whose arguments stand in tags. None if they are cut short: the client would run it without them."""
    if function := _FUNCTION.fullmatch(body):
        name, rows = function[1], _between(function[2], _PARAMETER)
        rows = rows and [[key, text.removeprefix("\n").removesuffix("\n")] for key, text in rows]
    elif function := _NAMED.fullmatch(body):
        name, rows = function[1], _between(function[2], _ARGUMENT)
        if not rows and all(name != tool.name for tool in tools):
            return None  # a mere word
    else:
        return None
    if rows is None:
        return None
    schemas = _schemas(tools, name)
    return named(name, {key: _value(schemas.get(key), text) for key, *_, text in rows})


def _between(text: str, marks: Sequence[str]) -> list[list[str]] | None:
    """The texts between each mark and the next, over and over; None if the last marks are missing. Takes linear time,
    unlike a regular expression."""
    rows: list[list[str]] = []
    place = text.find(marks[0])
    while place >= 0:
        place += len(marks[0])
        row: list[str] = []
        for mark in marks[1:]:
            end = text.find(mark, place)
            if end < 0:
                return None
            row.append(text[place:end])
            place = end + len(mark)
        rows.append(row)
        place = text.find(marks[0], place)
    return rows


def _schemas(tools: Sequence[Tool], name: str) -> Mapping[str, Any]:
    """The schemas of the tool's arguments, by name."""
    properties = next((tool.parameters.get("properties") for tool in tools if tool.name == name), None)
    return properties if isinstance(properties, Mapping) else {}


def _value(schema: Any, text: str) -> Any:
    """The value, typed by the argument's schema or else by its own form, because tags do not give types."""
    kinds, word = _kinds(schema), text.strip()
    if "string" in kinds:
        return None if "null" in kinds and word in ("null", "None") else text
    if word in _PYTHON:
        return _PYTHON[word]
    value = read_json(text)
    return text if value is None and word != "null" else value


def _kinds(schema: Any) -> set[str]:
    """The types that a schema allows, if it names them."""
    if not isinstance(schema, Mapping):
        return set()
    types, branches = schema.get("type"), schema.get("anyOf")
    listed = types if isinstance(types, list) else [types]
    kinds = {kind for kind in listed if isinstance(kind, str)}
    return kinds.union(*map(_kinds, branches)) if isinstance(branches, list) else kinds
