"""Answers that must be calls: their JSON schema, and a reader for them while they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.inference.tools.calls import CallArguments, CallBegins, Delta, Tool, new_id

MOST_CALLS = 8
"""A model of a few million parameters would go on calling for ever."""


def forced_schema(tools: Sequence[Tool], name: str | None, many: bool) -> dict[str, Any]:
    """The schema of an answer that calls the tool `name`, or one of the tools, or up to eight with `many`.

    A named tool's answer is its arguments alone; else it is `{"name": ..., "arguments": ...}`.
    """
    if name is not None:
        return dict(next(tool.parameters for tool in tools if tool.name == name))
    definitions = {f"tool{number}": _moved(tool.parameters, f"tool{number}") for number, tool in enumerate(tools)}
    calls = [_call(tool.name, key) for tool, key in zip(tools, definitions, strict=True)]
    one: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_CALLS} if many else one
    return {**schema, "$defs": definitions}


def _call(name: str, key: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{key}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, key: str, *, names: bool = False) -> Any:
    """`schema` moved to `#/$defs/key`. Its references within itself start there, and keywords that make it a document
    are left out. names: its keys are names from the tool's author, not keywords of JSON schema."""
    if isinstance(schema, list):
        return [_moved(one, key) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved: dict[str, Any] = {}
    for word, value in schema.items():
        if not names and word == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            moved[word] = f"#/$defs/{key}{value[1:]}"
        elif not names and word in _VALUES:
            moved[word] = value
        elif names or word not in _OF_DOCUMENTS:
            moved[word] = _moved(value, key, names=not names and word in _NAMES)
    return moved


_NAMES = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_VALUES = ("const", "enum", "default", "examples")
_OF_DOCUMENTS = ("$schema", "$id")


class ForcedReader:
    """Reads an answer in the form of `forced_schema`. `name`: the name of the one tool that it calls."""

    markers: tuple[str, ...] = ()

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._index = -1
        self._held = ""
        self._in_arguments = False
        self._value = _ValueEnd()

    def feed(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        if self._name is not None:
            if self._index < 0 and text:
                deltas.append(self._begin(self._name))
            return [*deltas, CallArguments(0, text)] if text else deltas
        self._held += text
        while self._step(deltas):
            pass
        return deltas

    def end(self) -> list[Delta]:
        return []

    def _step(self, deltas: list[Delta]) -> bool:
        """Read the held text as far as possible. Returns whether there is more to read."""
        if self._in_arguments:
            end = self._value.find(self._held)
            piece, self._held = (self._held, "") if end is None else (self._held[:end], self._held[end:])
            if piece:
                deltas.append(CallArguments(self._index, piece))
            self._in_arguments = end is None
            return end is not None
        begins = _BEGINS.match(self._held)
        if begins is None:
            return False
        deltas.append(self._begin(begins[1]))
        self._held = self._held[begins.end() :]
        self._in_arguments, self._value = True, _ValueEnd()
        return True

    def _begin(self, name: str) -> CallBegins:
        self._index += 1
        return CallBegins(self._index, new_id(), name)


_BEGINS = re.compile(r'[\s\[\],}]*\{\s*"name"\s*:\s*"([A-Za-z0-9_.-]+)"\s*,\s*"arguments"\s*:\s*(?=\{)')


class _ValueEnd:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = False

    def find(self, text: str) -> int | None:
        """The index after its last character in this piece, or None if it goes on."""
        for place, character in enumerate(text):
            if self._in_text:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_text = False
            elif character == '"':
                self._in_text = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return None
