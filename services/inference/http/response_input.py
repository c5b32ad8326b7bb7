"""From the input items of /v1/responses to a conversation that goes on from an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from headmap.errors import EmptyPrompt, InvalidParameter
from headmap.http.costs import MAX_NESTED_JSON, Allowance
from headmap.settings import Settings
from services.inference.http.schemas.responses import (
    CallItem,
    CallOutputItem,
    Content,
    ImageInput,
    Item,
    MessageItem,
    ReferenceItem,
    RefusalInput,
)
from services.inference.intake.conversation import Conversation, Message, check_count
from services.inference.intake.images import ImageSource
from services.inference.tools.requests import history_calls

_ITEM: TypeAdapter[Item] = TypeAdapter(Item)

FindItem = Callable[[str, str], dict[str, Any]]
"""(id, field that names it) -> an output item of an earlier response."""


def conversation_of(
    given: str | Sequence[Item], before: Conversation | None, find: FindItem, settings: Settings
) -> Conversation:
    """`before`: what it goes on from. Raises EmptyPrompt, InvalidParameter, PayloadTooLarge, and what `find` raises."""
    messages, images = ([], []) if before is None else (list(before.messages), list(before.images))
    if isinstance(given, str):
        messages.append({"role": "user", "content": _parts(given, "input", images)})
    else:
        arguments_left = Allowance(MAX_NESTED_JSON, "characters of arguments in a request")
        for number, item in enumerate(given):
            _add(item, f"input.{number}", messages, images, find, arguments_left)
    check_count(len(images), settings, "input")
    told = any(part.get("text", "").strip() for message in messages for part in message["content"])
    if not images and not told and not any("tool_calls" in message for message in messages):
        raise EmptyPrompt("input: holds no text and no picture", param="input")
    return Conversation(tuple(messages), tuple(images))


def with_instructions(conversation: Conversation, instructions: str | None) -> Conversation:
    """`instructions` as a system turn in front."""
    if not instructions:
        return conversation
    first: Message = {"role": "system", "content": [{"type": "text", "text": instructions}]}
    return replace(conversation, messages=(first, *conversation.messages))


def with_answer(conversation: Conversation, output: Sequence[dict[str, Any]]) -> Conversation:
    """The conversation with a response's output items at its end."""
    messages, images = list(conversation.messages), list(conversation.images)
    arguments_left = Allowance(MAX_NESTED_JSON, "characters of arguments in an answer")
    for number, item in enumerate(output):
        _add(_ITEM.validate_python(item), f"output.{number}", messages, images, _nothing, arguments_left)
    return replace(conversation, messages=tuple(messages), images=tuple(images))


def _nothing(identity: str, field: str) -> dict[str, Any]:
    raise InvalidParameter(f"{field}: refers to {identity!r}, which does not exist", param=field)


def _add(
    item: Item,
    field: str,
    messages: list[Message],
    images: list[ImageSource],
    find: FindItem,
    arguments_left: Allowance,
) -> None:
    if isinstance(item, ReferenceItem):
        item = _ITEM.validate_python(find(item.id, f"{field}.id"))
    if isinstance(item, MessageItem):
        role = "system" if item.role == "developer" else item.role
        messages.append({"role": role, "content": _parts(item.content, f"{field}.content", images)})
    elif isinstance(item, CallItem):
        function = {"name": item.name, "arguments": item.arguments}
        (call,) = history_calls([{"id": item.call_id, "type": "function", "function": function}], field, arguments_left)
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": []})
        messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
    elif isinstance(item, CallOutputItem):
        parts = _parts(item.output, f"{field}.output", images)
        messages.append({"role": "tool", "content": parts, "tool_call_id": item.call_id})


def _parts(content: Content, field: str, images: list[ImageSource]) -> list[dict[str, str]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    parts: list[dict[str, str]] = []
    for place, part in enumerate(content):
        if isinstance(part, ImageInput):
            images.append(ImageSource(part.image_url, f"{field}.{place}.image_url", len(images) + 1))
            parts.append({"type": "image"})
        elif text := part.refusal if isinstance(part, RefusalInput) else part.text:
            parts.append({"type": "text", "text": text})
    return parts
