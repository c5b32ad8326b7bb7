"""From request bodies to a conversation and its pictures: who says what, and where each picture stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headmap.errors import EmptyPrompt, InvalidParameter
from headmap.settings import Settings
from services.inference.intake.images import ImageSource

Message = dict[str, Any]
"""As `LoadedModel.prepare` takes it: {"role", "content": [{"type": "image"} or {"type": "text", "text"}, ...]}, and
`tool_calls`, `tool_call_id` and `name` where the client's message has them."""

_LONGEST_ALT = 1024


@dataclass(frozen=True)
class Conversation:
    """Messages with a place for each picture, and the pictures in the order of their places.

    tools: the tools that the answer may call, as the chat template takes them. template_kwargs: its further variables.
    """

    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        parts = (part for message in self.messages for part in message["content"])
        return sum(len(part.get("text", "")) for part in parts)


def conversation_of_inputs(inputs: str, images: Sequence[str], settings: Settings) -> Conversation:
    """One user turn of /generate: `images` first, then `inputs`, whose markdown pictures stay in their places.

    Raises EmptyPrompt without any text or picture, and InvalidParameter for too many pictures.
    """
    check_count(len(images), settings, "images")
    parts: list[dict[str, str]] = [{"type": "image"} for _ in images]
    sources = [ImageSource(text, f"images.{number}") for number, text in enumerate(images)]
    for text, target in split_markdown(inputs, settings.max_images + 1):
        if text:
            parts.append({"type": "text", "text": text})
        if target is not None:
            parts.append({"type": "image"})
            sources.append(ImageSource(target, "inputs", len(sources) + 1))
    # What surrounds a picture in markdown is layout, not question.
    parts = _trimmed(parts)
    if not parts:
        raise EmptyPrompt(f"inputs: holds no text and no picture, got {inputs[:40]!r}", param="inputs")
    check_count(len(sources), settings, "images")
    return Conversation(({"role": "user", "content": parts},), tuple(sources))


def check_count(count: int, settings: Settings, field: str) -> None:
    if count > settings.max_images:
        raise InvalidParameter(f"{field}: at most {settings.max_images} pictures, got {count}", param=field)


def split_markdown(text: str, most: int) -> list[tuple[str, str | None]]:
    """Cut `text` at its first `most` markdown pictures: (text before, target) for each, then (the rest, None).

    Takes linear time, in steps of at least _LONGEST_ALT characters or a picture each.
    """
    pieces: list[tuple[str, str | None]] = []
    start = place = 0
    while len(pieces) < most:
        begin = text.find("![", place)
        middle = -1 if begin < 0 else text.find("](", begin + 2)
        if middle < 0:
            break
        if middle > begin + 2 + _LONGEST_ALT:
            place = middle - 2 - _LONGEST_ALT
            continue
        end = text.find(")", middle + 2)
        if end < 0:
            break
        pieces.append((text[start:begin], text[middle + 2 : end].strip()))
        start = place = end + 1
    pieces.append((text[start:], None))
    return pieces


def _trimmed(parts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Drop blank texts, and blank space at both ends of the turn and beside pictures."""
    trimmed = []
    for index, part in enumerate(parts):
        if part["type"] == "text":
            text = part["text"]
            if index == 0 or parts[index - 1]["type"] == "image":
                text = text.lstrip()
            if index == len(parts) - 1 or parts[index + 1]["type"] == "image":
                text = text.rstrip()
            if not text:
                continue
            part = {"type": "text", "text": text}
        trimmed.append(part)
    return trimmed
