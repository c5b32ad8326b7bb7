"""The tables of fields in docs/serving.md: `python -m services.cli.fields_table` rewrites them.

They are made from the classes that requests are checked against.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic.fields import FieldInfo

from services.cli.generated import rewrite, with_part
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
    """The document with the tables in it."""
    return with_part(text, "fields", tables())


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
    rewrite("docs/serving.md", with_tables)
