"""Reads calls that stand between marks in an answer's text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from services.inference.tools.calls import CallArguments, CallBegins, ContentDelta, Delta, new_id

Found = Sequence[tuple[str, str]]
"""(name, arguments as JSON text) of each call in a block."""


class BlockReader:
    """Text passes as it comes, unless it may begin a block. A block passes when it is whole.

    opening: begins a block. closing: ends a block; None if the next opening or the answer's end does. parse: reads a
    block, and returns None if it holds no call; the block then passes as text. Blank space beside calls is left out. A
    closing mark inside an argument ends the block, too.
    """

    def __init__(
        self,
        opening: str,
        closing: str | None,
        parse: Callable[[str], Found | None],
        markers: tuple[str, ...] = (),
    ) -> None:
        self.markers = markers
        self._opening, self._closing, self._parse = opening, closing, parse
        self._held = ""
        self._blank = ""  # before the block that is being read
        self._inside = False
        self._calls = 0

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        deltas: list[Delta] = []
        while self._step(deltas):
            pass
        return deltas

    def end(self) -> list[Delta]:
        deltas: list[Delta] = []
        if self._inside:
            self._tell_block(self._held, "", deltas)
        elif self._held.strip() or not self._calls:
            self._tell_text(self._held, deltas)
        self._held = ""
        return deltas

    def _step(self, deltas: list[Delta]) -> bool:
        """Read one block, or the text before one. Returns whether more may be read."""
        if self._inside:
            mark = self._closing or self._opening
            body, found, rest = self._held.partition(mark)
            if not found:
                return False
            self._tell_block(body, self._closing or "", deltas)
            self._inside, self._held = self._closing is None, rest
            return True
        text, found, rest = self._held.partition(self._opening)
        if found:
            shown = text.rstrip()
            self._tell_text(shown, deltas)
            self._blank, self._inside, self._held = text[len(shown) :], True, rest
            return True
        sure = self._sure(self._held)
        self._tell_text(self._held[:sure], deltas)
        self._held = self._held[sure:]
        return False

    def _sure(self, text: str) -> int:
        """How many characters of `text` cannot belong to an opening or to blank space before one."""
        longest = min(len(text), len(self._opening) - 1)
        start = next((n for n in range(longest, 0, -1) if text.endswith(self._opening[:n])), 0)
        return len(text[: len(text) - start].rstrip())

    def _tell_text(self, text: str, deltas: list[Delta]) -> None:
        if self._calls and not text.strip():
            return
        if text:
            deltas.append(ContentDelta(text))

    def _tell_block(self, body: str, closing: str, deltas: list[Delta]) -> None:
        found = self._parse(body)
        blank, self._blank = self._blank, ""
        if not found:
            deltas.append(ContentDelta(f"{blank}{self._opening}{body}{closing}"))
            return
        for name, arguments in found:
            deltas += [CallBegins(self._calls, new_id(), name), CallArguments(self._calls, arguments)]
            self._calls += 1


def read_json(text: str) -> Any:
    """The JSON value of `text`, or None. It is None for NaN and half surrogate pairs, too: Python's json reads
    them, but no client can be sent them."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return None


def call_of(value: Any) -> tuple[str, str] | None:
    """A call as most models write it: `{"name": ..., "arguments" or "parameters": object or JSON text}`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = read_json(arguments)
    elif arguments is None:
        arguments = {}
    return named(value["name"], arguments)


def named(name: str, arguments: Any) -> tuple[str, str] | None:
    """A call with its arguments as compact JSON text; None if they are not an object that JSON can write."""
    if not isinstance(arguments, Mapping):
        return None
    try:
        return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:  # a number too large for a float was read as infinite
        return None
