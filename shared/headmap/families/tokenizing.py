"""Convert a conversation to tokens. A user's text never becomes a control token.

Control tokens are a tokenizer's added tokens: turn marks, picture places, the end of text. A prompt has exactly the
control tokens that the chat template writes. If it has others, it is tokenized again piece by piece, and a tokenizer
without control tokens handles users' text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.meta import find_undeclared_variables
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from headmap.errors import InvalidParameter

Message = dict[str, Any]
"""A chat message: {"role", "content": text or [{"type": "image"} or {"type": "text", "text": ...}, ...]}.

`content` may be missing or None. Turns of the assistant may have `tool_calls`, [{"id", "type", "function": {"name",
"arguments": an object}}, ...]; turns of the role `tool` have `tool_call_id` and may have `name`.
"""

# Tags that mark the assistant's words in transformers; jinja does not know them.
_OWN_TAGS = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


@dataclass(frozen=True)
class _Piece:
    """A part of a prompt; `text` comes from a user or from the template."""

    text: str
    users: bool


class PromptTokenizer:
    """A tokenizer and its model's chat template. Safe to call from several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str, tool_template: str = "") -> None:
        """`tool_template`: the template for conversations with tools, if it is a different one."""
        self._tokenizer = tokenizer
        self._templates = (chat_template, tool_template or chat_template)
        # Some vocabularies have added tokens for runs of blanks and newlines, which are text.
        added = {
            token_id: token.content
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content.strip()
        }
        self._contents = tuple(added.values())
        # Characters outside the vocabulary become the unknown token, which controls nothing.
        self._controls = frozenset(added) - {tokenizer.unk_token_id}

    @cached_property
    def names(self) -> frozenset[str]:
        """The variables that the chat templates read."""
        return frozenset().union(*map(_variables, self._templates))

    @property
    def template(self) -> str:
        """The text of the chat templates."""
        return "\n".join(dict.fromkeys(self._templates))

    def chat(
        self,
        messages: Sequence[Message],
        place: str = "",
        pictures: Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the tokens of a conversation, up to the start of the model's answer.

        The template writes `place` for each picture, and the texts of `pictures` replace these places in order. They
        are inserted before tokenization, because newlines inside and around a picture's text may form one token.
        `tools` and `template_kwargs` are passed to the template. Raises InvalidParameter if the template rejects the
        conversation or writes a different number of places. Also raises it if a text holds control tokens that this
        tokenizer cannot treat as text.
        """
        bos = self._tokenizer.bos_token
        given = {**(template_kwargs or {}), **({"tools": list(tools)} if tools else {})}
        self._check_plain(given.get("tools"), "tools")
        self._check_plain(template_kwargs, "chat_template_kwargs")
        for number, message in enumerate(messages):
            for name in ("tool_calls", "tool_call_id", "name"):
                self._check_plain(message.get(name), f"messages.{number}.{name}")
        rendered = self._render(messages, given)
        pieces = self._pieces(messages, rendered, given)
        if place:
            rendered, pieces = _with_pictures(rendered, pieces, place, pictures)
        # Some templates write the first token themselves; it must not be added again.
        return self._tokens(rendered, pieces, adds_bos=not (bos and bos in self._templates["tools" in given]))

    def text(self, prompt: str) -> list[int]:
        """Return the tokens of a plain text. Raises InvalidParameter for control tokens, like `chat`."""
        return self._tokens(prompt, [_Piece(prompt, users=True)], adds_bos=True)

    def _tokens(self, rendered: str, pieces: Sequence[_Piece], adds_bos: bool) -> list[int]:
        start = self._whole("", adds_bos)
        wanted = self._controls_of(start)
        for piece in pieces:
            wanted += [] if piece.users else self._controls_of(self._whole(piece.text))
        held = [content for content in self._contents if any(content in piece.text for piece in pieces if piece.users)]
        if not held:
            tokens = self._whole(rendered, adds_bos)
            if self._controls_of(tokens) == wanted:
                return tokens
        if "".join(piece.text for piece in pieces) == rendered and self._plain is not None:
            tokens = start + self._piecewise(pieces, self._plain)
            if self._controls_of(tokens) == wanted:
                return tokens
        named = f"the control token {held[0]!r}" if held else "a control token"
        raise InvalidParameter(
            f"messages: a text holds {named}, which this model cannot take as text", param="messages"
        )

    def _check_plain(self, value: object, field: str) -> None:
        """Raise InvalidParameter for a control token in text that the template reformats, such as JSON."""
        if isinstance(value, str):
            held = next((content for content in self._contents if content in value), None)
            if held is not None:
                raise InvalidParameter(f"{field}: holds the control token {held!r}", param=field)
        elif isinstance(value, Mapping):
            for one in (*value, *value.values()):
                self._check_plain(one, field)
        elif isinstance(value, Sequence):
            for one in value:
                self._check_plain(one, field)

    def _render(self, messages: Sequence[Message], given: Mapping[str, Any]) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages),
                    chat_template=self._templates["tools" in given],
                    add_generation_prompt=True,
                    tokenize=False,
                    **given,
                )
            )
        except Exception as error:  # a template is a program and can fail in many ways
            raise InvalidParameter(
                f"messages: the model's chat template refuses this conversation ({error})", param="messages"
            ) from error

    def _pieces(self, messages: Sequence[Message], rendered: str, given: Mapping[str, Any]) -> list[_Piece]:
        """Split a conversation into template text and users' text, by rendering it with marks for users' text."""
        secret = secrets.token_hex(16)  # so that no text can hold a mark
        texts: list[str] = []

        def mark(text: str) -> str:
            texts.append(text)
            return f"\ue000{secret}:{len(texts) - 1}\ue001"

        marked: list[Message] = []
        for message in messages:
            content = message.get("content")
            if isinstance(content, str) and content:  # templates test whether a text is empty
                content = mark(content)
            elif content:
                content = [{**part, "text": mark(part["text"])} if part.get("text") else part for part in content]
            marked.append({**message, "content": content} if content else message)
        split = re.split(f"\ue000{secret}:(\\d+)\ue001", self._render(marked, given))
        pieces: list[_Piece] = []
        for trim in (str, str.strip):  # some templates strip users' text
            pieces = [
                _Piece(trim(texts[int(part)]), True) if odd % 2 else _Piece(part, False)
                for odd, part in enumerate(split)
            ]
            if "".join(piece.text for piece in pieces) == rendered:
                break
        return pieces

    def _piecewise(self, pieces: Sequence[_Piece], plain: Tokenizer) -> list[int]:
        """Use the template's control tokens, and tokenize the text between them with the plain tokenizer."""
        tokens: list[int] = []
        between = ""
        for piece in pieces:
            if piece.users:
                between += piece.text
                continue
            encoded = self._tokenizer(piece.text, add_special_tokens=False, return_offsets_mapping=True)
            done = 0
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                if token in self._controls:
                    tokens += plain.encode(between + piece.text[done:start], add_special_tokens=False).ids
                    tokens.append(token)
                    between, done = "", end
            between += piece.text[done:]
        return tokens + plain.encode(between, add_special_tokens=False).ids

    @cached_property
    def _plain(self) -> Tokenizer | None:
        """Return the tokenizer without its added tokens, or None if it is not from the tokenizers library."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        described = json.loads(backend.to_str())
        described["added_tokens"] = []
        described["post_processor"] = None  # it may name removed tokens
        return Tokenizer.from_str(json.dumps(described))

    def _whole(self, text: str, adds_bos: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=adds_bos)["input_ids"])

    def _controls_of(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token in self._controls]


def _variables(template: str) -> set[str]:
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701  nothing is rendered
    try:
        return find_undeclared_variables(environment.parse(_OWN_TAGS.sub("", template)))
    except TemplateError:  # it will reject every conversation
        return set()


def _with_pictures(
    rendered: str, pieces: Sequence[_Piece], place: str, pictures: Sequence[str]
) -> tuple[str, list[_Piece]]:
    """Insert `pictures` at the template's places, in a rendered prompt and in its pieces."""
    found = sum(piece.text.count(place) for piece in pieces if not piece.users)
    if found != len(pictures):
        raise InvalidParameter(
            f"images: the prompt has {found} places for pictures, got {len(pictures)}", param="images"
        )
    rest = iter(pictures)
    filled = [piece if piece.users else _Piece(_filled(piece.text, place, rest), False) for piece in pieces]
    if "".join(piece.text for piece in pieces) == rendered:
        return "".join(piece.text for piece in filled), filled
    # The template changes users' text, so places in users' text look like the template's places.
    return (rendered if rendered.count(place) != found else _filled(rendered, place, iter(pictures))), filled


def _filled(text: str, place: str, pictures: Iterator[str]) -> str:
    first, *others = text.split(place)
    return first + "".join(next(pictures) + part for part in others)
