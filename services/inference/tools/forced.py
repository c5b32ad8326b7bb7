"""Answers that must be calls: the JSON schema they are held to, and what reads them back while they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.inference.tools.calls import CallArguments, CallBegins, Delta, Tool, new_id

MOST_CALLS = 8
"""A model of a few million parameters would go on calling for ever."""

_DEFINITIONS = ("$defs", "definitions")


def forced_schema(tools: Sequence[Tool], name: str | None, many: bool) -> dict[str, Any]:
    """The schema of an answer that calls the tool `name`, or one of the tools, or up to eight with `many`.

    A named tool's answer is its arguments alone; else it is `{"name": ..., "arguments": ...}`.
    """
    if name is not None:
        return dict(next(tool.parameters for tool in tools if tool.name == name))
    definitions: dict[str, Any] = {}
    calls = [_call(tool, number, definitions) for number, tool in enumerate(tools)]
    one: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema = {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_CALLS} if many else one
    return {**schema, "$defs": definitions} if definitions else schema


def _call(tool: Tool, number: int, definitions: dict[str, Any]) -> dict[str, Any]:
    prefix = f"tool{number}-"
    parameters = {key: value for key, value in tool.parameters.items() if key not in _DEFINITIONS}
    for key in _DEFINITIONS:
        for name, schema in (tool.parameters.get(key) or {}).items():
            definitions[prefix + name] = _moved(schema, prefix)
    arguments = _moved(parameters, prefix)
    if _refers_to_root(tool.parameters):
        definitions[prefix] = arguments
        arguments = {"$ref": f"#/$defs/{prefix}"}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, prefix: str) -> Any:
    """`schema` with references to the tool's own definitions pointing to where these are now."""
    if isinstance(schema, Mapping):
        return {
            key: _reference(value, prefix) if key == "$ref" else _moved(value, prefix) for key, value in schema.items()
        }
    return [_moved(one, prefix) for one in schema] if isinstance(schema, list) else schema


def _reference(reference: Any, prefix: str) -> Any:
    if reference == "#":
        return f"#/$defs/{prefix}"
    if isinstance(reference, str) and (match := re.fullmatch(r"#/(?:\$defs|definitions)/(.+)", reference)):
        return f"#/$defs/{prefix}{match[1]}"
    return reference


def _refers_to_root(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("$ref") == "#" or any(map(_refers_to_root, schema.values()))
    return isinstance(schema, list) and any(map(_refers_to_root, schema))


class ForcedReader:
    """Reads an answer held to `forced_schema`; `name`: of the one tool that it calls."""

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
        """Read what is held as far as it goes. Returns whether there is more to read."""
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
        deltas.append(self._begin(json.loads(f'"{begins[1]}"')))
        self._held = self._held[begins.end() :]
        self._in_arguments, self._value = True, _ValueEnd()
        return True

    def _begin(self, name: str) -> CallBegins:
        self._index += 1
        return CallBegins(self._index, new_id(), name)


_BEGINS = re.compile(r'[\s\[\],}]*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)')


class _ValueEnd:
    """Finds where a JSON object ends that is fed in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = False

    def find(self, text: str) -> int | None:
        """The index after its last character in this piece, or None where it goes on."""
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
