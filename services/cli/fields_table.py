"""The tables of fields in docs/serving.md: `python -m services.cli.fields_table` rewrites them.

They are made from the classes that requests are checked against.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic.fields import FieldInfo

from services.inference.http.schemas.fields import Body, Only, mark_of
from services.inference.http.schemas.openai_chat import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from services.inference.http.schemas.openai_completions import CompletionRequest
from services.inference.http.schemas.responses import ResponsesRequest
from services.inference.http.schemas.tgi import Parameters

BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"

_REQUESTS: Mapping[str, type[Body]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "responses": ResponsesRequest,
    "/generate": Parameters,
}
_MESSAGES: Mapping[str, type[Body]] = {
    "system": SystemMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
    "tool": ToolMessage,
    "text part": TextPart,
    "picture part": ImagePart,
}


def tables() -> str:
    """Both tables as Markdown: fields of requests, and of messages and their parts."""
    return f"{_table('field', _REQUESTS)}\n\n{_table('in messages', _MESSAGES)}"


def with_tables(text: str) -> str:
    """`text` with the tables between their marks."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{tables()}\n{END}{tail}"


def _table(first: str, bodies: Mapping[str, type[Body]]) -> str:
    fields = {name: _fields(body) for name, body in bodies.items()}
    names = list(dict.fromkeys(name for known in fields.values() for name in known))
    lines = [f"| {first} | {' | '.join(bodies)} |", "|---" * (len(bodies) + 1) + "|"]
    for name in names:
        lines.append(f"| `{name}` | {' | '.join(_fate(fields[body].get(name)) for body in bodies)} |")
    return "\n".join(lines)


def _fields(body: type[Body]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in body.model_fields.items()}


def _fate(field: FieldInfo | None) -> str:
    if field is None:
        return ""
    mark = mark_of(field)
    if isinstance(mark, Only):
        return f"only `{mark.told}`"
    return "**served**" if mark is None else mark.fate


if __name__ == "__main__":
    document = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/serving.md")
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
