"""The deltas of an answer: pieces of content, and calls of tools."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Tool:
    """A function that an answer may call; `parameters` is the JSON schema of its arguments, an object."""

    name: str
    parameters: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class ContentDelta:
    text: str


@dataclass(frozen=True)
class CallBegins:
    """Call number `index` of the answer, from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Delta = ContentDelta | CallBegins | CallArguments


class CallReader(Protocol):
    """Reads one answer. The deltas add up to the same content and calls, however the text is cut into pieces.

    markers: names of control tokens that the reader needs in the text, and that answers otherwise leave out.
    """

    @property
    def markers(self) -> tuple[str, ...]: ...

    def feed(self, text: str) -> list[Delta]: ...

    def end(self) -> list[Delta]:
        """The text held back, once the answer has ended."""
        ...


@dataclass(frozen=True)
class Call:
    """A whole call. `arguments` is JSON text, which is cut short if the answer was."""

    id: str
    name: str
    arguments: str


def new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def fold(deltas: Iterable[Delta]) -> tuple[str, list[Call]]:
    """The content and the calls that deltas add up to."""
    content: list[str] = []
    begun: dict[int, CallBegins] = {}
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        match delta:
            case ContentDelta(text):
                content.append(text)
            case CallBegins(index):
                begun[index] = delta
            case CallArguments(index, text):
                arguments.setdefault(index, []).append(text)
    calls = [Call(one.id, one.name, "".join(arguments.get(index, ()))) for index, one in begun.items()]
    return "".join(content), calls
