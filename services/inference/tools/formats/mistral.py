"""`[TOOL_CALLS]` and a JSON list of calls, or `[TOOL_CALLS]name[ARGS]{...}` for each call: Mistral 3, Pixtral."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.inference.tools.blocks import BlockReader, Found, call_of, named, read_json
from services.inference.tools.calls import Tool

OPENING = "[TOOL_CALLS]"
_MARKS = (OPENING, "[ARGS]", "[CALL_ID]")
# Some models leave [ARGS] out.
_CALL = re.compile(r"\s*([A-Za-z0-9_.-]+)(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(\{.*)", re.DOTALL)


def is_written_by(template: str) -> bool:
    return OPENING in template


def reader(tools: Sequence[Tool]) -> BlockReader:
    return BlockReader(OPENING, None, _calls, markers=_MARKS)


def _calls(body: str) -> Found | None:
    match = _CALL.fullmatch(body)
    if match is not None:
        call = named(match[1], read_json(match[2]))
        return [call] if call is not None else None
    listed = read_json(body)
    calls = [call_of(one) for one in listed] if isinstance(listed, list) else []
    found = [call for call in calls if call is not None]
    return found if len(found) == len(calls) else None
