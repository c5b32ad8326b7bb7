"""Checks a request's tools, the choice among them, and calls of earlier turns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from headmap.errors import InvalidParameter
from headmap.http.costs import MAX_NESTED_JSON, Allowance, characters, shown
from services.inference.tools.blocks import read_json
from services.inference.tools.calls import Tool

MOST_TOOLS = 128
"""OpenAI's bound."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_WANTS_SHORT_IDS = re.compile(r"id\s*\|\s*length\s*!=\s*9\b")


@dataclass(frozen=True)
class Choice:
    """`required`: the answer is a call, and calls the tool `name` if that is given."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None


def check_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Chat's form (`function` inside) and that of responses (flat). Raises InvalidParameter naming the field, and
    PayloadTooLarge."""
    if len(tools) > MOST_TOOLS:
        _refuse("tools", f"at most {MOST_TOOLS} are served, got {len(tools)}")
    Allowance(MAX_NESTED_JSON, "characters").spend(characters(list(tools)), "tools")
    checked: list[Tool] = []
    for number, tool in enumerate(tools):
        field = f"tools.{number}"
        if tool.get("type") not in (None, "function"):
            _refuse(f"{field}.type", f"only functions are served, got {shown(tool.get('type'))}")
        function = tool
        if tool.get("function") is not None:
            function, field = tool["function"], f"{field}.function"
        if not isinstance(function, Mapping):
            _refuse(field, f"must be an object, got {shown(function)}")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            _refuse(f"{field}.name", f"must be 1 to 64 letters, digits, '_', '-' or '.', got {shown(name)}")
        if any(name == one.name for one in checked):
            _refuse(f"{field}.name", f"{name!r} is there twice")
        parameters = function.get("parameters")
        if parameters is None:
            parameters = {}
        if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
            _refuse(f"{field}.parameters", "must be the JSON schema of an object")
        description = function.get("description")
        if not isinstance(description, str | None):
            _refuse(f"{field}.description", f"must be text, got {shown(description)}")
        checked.append(Tool(name, {"type": "object", **parameters}, description or ""))
    return tuple(checked)


def settle_choice(choice: str | Mapping[str, Any] | None, tools: Sequence[Tool]) -> Choice:
    """Raises InvalidParameter naming `tool_choice`."""
    field = "tool_choice"
    if choice is None:
        return Choice("auto" if tools else "none")
    if choice in ("none", "auto"):
        return Choice("none" if choice == "none" else "auto")
    if choice in ("required", "any"):
        if not tools:
            _refuse(field, f"{choice!r} needs tools")
        return Choice("required")
    if isinstance(choice, str):
        _refuse(field, f"must be none, auto, required or a named function, got {shown(choice)}")
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, Mapping) else None
    if choice.get("type", "function") != "function" or not isinstance(name, str):
        _refuse(field, f"must be {{type: function, function: {{name}}}}, got {shown(choice)}")
    if all(name != tool.name for tool in tools):
        _refuse(field, f"{shown(name)} is not among the tools")
    return Choice("required", name)


def history_calls(calls: Sequence[Mapping[str, Any]], field: str, arguments_left: Allowance) -> list[dict[str, Any]]:
    """Calls of an earlier turn as chat templates take them: arguments as objects, which all turns of a request share
    an allowance for. Raises InvalidParameter and PayloadTooLarge."""
    made = []
    for number, call in enumerate(calls):
        where = f"{field}.{number}"
        function = call.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            _refuse(f"{where}.function.name", f"must be text, got {shown(name)}")
        given = function.get("arguments")
        arguments_left.spend(characters(given), f"{where}.function.arguments")
        arguments = _arguments(given, f"{where}.function.arguments")
        identity = call.get("id")
        if identity is not None and not isinstance(identity, str):
            _refuse(f"{where}.id", f"must be text, got {shown(identity)}")
        told = {} if identity is None else {"id": identity}
        made.append({**told, "type": "function", "function": {"name": name, "arguments": arguments}})
    return made


def with_ids_for(template: str, messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Messages with ids of calls that the chat template accepts. Mistral's accept only ids of nine characters.
    For them, other ids become nine letters and digits, the same in the call and in its answer."""
    if not _WANTS_SHORT_IDS.search(template):
        return messages
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    made = dict(message)
    if "tool_calls" in made:
        made["tool_calls"] = [
            {**call, "id": _short_id(call["id"])} if "id" in call else call for call in made["tool_calls"]
        ]
    if "tool_call_id" in made:
        made["tool_call_id"] = _short_id(made["tool_call_id"])
    return made


def _short_id(identity: str) -> str:
    return identity if _SHORT_ID.fullmatch(identity) else hashlib.sha256(identity.encode()).hexdigest()[:9]


def _arguments(given: object, field: str) -> dict[str, Any]:
    if given is None or given == "":
        return {}
    value = read_json(given) if isinstance(given, str) else given
    if not isinstance(value, dict):
        _refuse(field, f"must be a JSON object, got {shown(given)}")
    return value


def _refuse(field: str, why: str) -> NoReturn:
    raise InvalidParameter(f"{field}: {why}", param=field)
