"""`<tool_call>` ... `</tool_call>`: Hermes' JSON (Qwen2.5, Qwen3, InternVL3.5), Qwen3-Coder's and GLM's tags inside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from services.inference.tools.blocks import BlockReader, Found, call_of, read_json, written
from services.inference.tools.calls import Tool

OPENING, CLOSING = "<tool_call>", "</tool_call>"

_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*?)(?:</function>)?\s*", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*((?:<arg_key>.*)?)", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def is_written_by(template: str) -> bool:
    return OPENING in template


def reader(tools: Sequence[Tool]) -> BlockReader:
    return BlockReader(OPENING, CLOSING, partial(_calls, tools), markers=(OPENING, CLOSING))


def _calls(tools: Sequence[Tool], body: str) -> Found | None:
    call = call_of(read_json(body))
    if call is not None:
        return [call]
    for head, argument in ((_FUNCTION, _PARAMETER), (_NAMED, _ARGUMENT)):
        match = head.fullmatch(body)
        if match is not None:
            name, rest = match[1], match[2]
            types = _types(tools, name)
            return [(name, written({key: _value(types.get(key), text) for key, text in argument.findall(rest)}))]
    return None


def _types(tools: Sequence[Tool], name: str) -> dict[str, Any]:
    properties = next((tool.parameters.get("properties") for tool in tools if tool.name == name), None)
    if not isinstance(properties, Mapping):
        return {}
    return {key: schema.get("type") for key, schema in properties.items() if isinstance(schema, Mapping)}


def _value(kind: Any, text: str) -> Any:
    """Tags do not tell texts from numbers; the tool's schema does, and else the value itself."""
    value = None if kind == "string" else read_json(text)
    return text if value is None and text.strip() != "null" else value
