"""Calls of Llama 3.x and 4: the whole answer is `{"name": ..., "parameters": {...}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.inference.tools.blocks import call_of, read_json
from services.inference.tools.calls import CallArguments, CallBegins, ContentDelta, Delta, Tool, new_id

_TAG = "<|python_tag|>"


def is_written_by(template: str) -> bool:
    return '"parameters"' in template and ("ipython" in template or _TAG in template)


def reader(tools: Sequence[Tool]) -> LlamaReader:
    return LlamaReader()


class LlamaReader:
    """Holds an answer that begins as JSON until its end, because only the end shows whether it is a call."""

    markers = (_TAG,)

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def feed(self, text: str) -> list[Delta]:
        if self._is_text:
            return [ContentDelta(text)] if text else []
        self._held += text
        begun = self._held.lstrip()
        if not begun or begun.startswith(("{", _TAG[: len(begun)])):
            return []
        self._is_text, held = True, self._held
        return [ContentDelta(held)]

    def end(self) -> list[Delta]:
        if self._is_text or not self._held:
            return []
        body = self._held.strip().removeprefix(_TAG)
        calls = [_call(read_json(part)) for part in _parts(body)]
        found = [call for call in calls if call is not None]
        if not found or len(found) < len(calls):
            return [ContentDelta(self._held)]
        return [
            delta
            for index, (name, arguments) in enumerate(found)
            for delta in (CallBegins(index, new_id(), name), CallArguments(index, arguments))
        ]


def _call(value: Any) -> tuple[str, str] | None:
    """An answer in JSON may well have a name; only a call has parameters too."""
    called = isinstance(value, Mapping) and ("parameters" in value or "arguments" in value)
    return call_of(value) if called else None


def _parts(body: str) -> list[str]:
    """Splits several calls at semicolons. Arguments may hold semicolons, too."""
    parts: list[str] = []
    rest = body.strip()
    while rest:
        try:
            _, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return [*parts, rest]
        parts.append(rest[:end])
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    return parts


_DECODER = json.JSONDecoder()
