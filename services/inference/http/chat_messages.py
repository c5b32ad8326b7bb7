"""From OpenAI's messages to a conversation: text, pictures in their places, and calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headmap.errors import EmptyPrompt
from headmap.http.costs import MAX_NESTED_JSON, Allowance, characters
from headmap.settings import Settings
from services.inference.http.schemas.openai_chat import (
    AssistantMessage,
    ChatMessage,
    Content,
    ImagePart,
    RefusalPart,
    ToolMessage,
)
from services.inference.intake.conversation import Conversation, Message, check_count
from services.inference.intake.images import ImageSource
from services.inference.tools.requests import history_calls


def conversation_of(
    messages: Sequence[ChatMessage],
    settings: Settings,
    *,
    tools: tuple[dict[str, Any], ...] = (),
    template_kwargs: Mapping[str, Any] | None = None,
) -> Conversation:
    """Raises EmptyPrompt where no message holds text or a picture, InvalidParameter and PayloadTooLarge."""
    Allowance(MAX_NESTED_JSON, "characters").spend(characters(template_kwargs), "chat_template_kwargs")
    made: list[Message] = []
    images: list[ImageSource] = []
    arguments_left = Allowance(MAX_NESTED_JSON, "characters of arguments in a request")
    for number, message in enumerate(messages):
        parts = _parts(message.content, f"messages.{number}.content", images)
        role = "system" if message.role == "developer" else message.role
        one: Message = {"role": role, "content": parts}
        if isinstance(message, AssistantMessage) and message.tool_calls:
            one["tool_calls"] = history_calls(message.tool_calls, f"messages.{number}.tool_calls", arguments_left)
        if isinstance(message, ToolMessage):
            one |= {
                name: value
                for name, value in (("tool_call_id", message.tool_call_id), ("name", message.name))
                if value is not None
            }
        made.append(one)
    check_count(len(images), settings, "messages")
    told = any(part.get("text", "").strip() for message in made for part in message["content"])
    if not images and not told and not any("tool_calls" in message for message in made):
        raise EmptyPrompt("messages: hold no text and no picture", param="messages")
    return Conversation(tuple(made), tuple(images), tools, template_kwargs or {})


def _parts(content: Content | None, field: str, images: list[ImageSource]) -> list[dict[str, str]]:
    """Parts for the chat template; pictures are added to `images`. Empty texts are left out."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    parts: list[dict[str, str]] = []
    for place, part in enumerate(content):
        if isinstance(part, ImagePart):
            url, where = part.source
            images.append(ImageSource(url, f"{field}.{place}.{where}", len(images) + 1))
            parts.append({"type": "image"})
        else:
            text = part.refusal if isinstance(part, RefusalPart) else part.text
            if text:
                parts.append({"type": "text", "text": text})
    return parts
