"""Tools on chat: the tools of a request, how an answer is forced to call one, and how calls are read from an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headmap.engine.messages import Token
from headmap.engine.vocabulary import Vocabulary
from services.inference.asked import AnswerForm
from services.inference.served_model import ServedModel
from services.inference.tools.calls import CallReader, ContentDelta, Delta, Tool
from services.inference.tools.forced import ForcedReader, forced_schema
from services.inference.tools.formats import format_of
from services.inference.tools.requests import check_tools, settle_choice

TOOLS = "x-headmap-tools"


@dataclass(frozen=True)
class ToolUse:
    """A request's tools, settled.

    shown: the tools as the chat template gets them. form: forces the answer to be a call. reader: makes a reader of
    calls for one answer; None if answers are plain text. single: the answer has at most one call. told: a note for the
    client, sent in a header.
    """

    shown: tuple[dict[str, Any], ...] = ()
    form: AnswerForm | None = None
    reader: Callable[[], CallReader] | None = None
    single: bool = False
    told: str | None = None

    def teller(self, vocabulary: Vocabulary) -> Teller:
        """The teller that cuts one answer into content and calls."""
        return Teller(self.reader and self.reader(), vocabulary, self.single)


def settle_tools(
    served: ServedModel,
    tools: Sequence[dict[str, Any]],
    choice: str | dict[str, Any] | None,
    parallel: bool | None = None,
) -> ToolUse:
    """`parallel`: true lets a forced answer hold several calls; false keeps only the first call of any answer.

    Raises InvalidParameter naming the fault in `tools` or `tool_choice`.
    """
    known = check_tools(tools)
    settled = settle_choice(choice, known)
    if not known or settled.mode == "none":
        return ToolUse()
    prompts = served.opened.prompts
    shown = tuple(map(_shown, known)) if "tools" in prompts.template_names else ()
    if settled.mode == "required":
        schema = forced_schema(known, settled.name, bool(parallel))
        return ToolUse(shown, AnswerForm("json_schema", schema, "tools"), lambda: ForcedReader(settled.name))
    make = format_of(prompts.template_text) if shown else None
    if make is None:
        return ToolUse(shown, told="the chat template of the model knows no tools; answered as text")
    return ToolUse(shown, reader=lambda: make(known), single=parallel is False)


def _shown(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


class Teller:
    """Cuts one answer, token by token, into content and calls."""

    def __init__(self, reader: CallReader | None, vocabulary: Vocabulary, single: bool) -> None:
        self._reader, self._vocabulary, self._single = reader, vocabulary, single
        self._calls = False

    def feed(self, token: Token, last: bool) -> list[Delta]:
        """`last`: the answer ends with this token."""
        reader = self._reader
        if reader is None:
            return [ContentDelta(token.text)] if token.text else []
        text = token.text
        marker = self._vocabulary.controls.get(token.id)
        if marker in reader.markers:  # a control token, whose text no answer shows
            text = f"{text}{marker}"
        deltas = [*reader.feed(text), *(reader.end() if last else ())]
        if self._single:
            deltas = [delta for delta in deltas if isinstance(delta, ContentDelta) or delta.index == 0]
        self._calls = self._calls or any(not isinstance(delta, ContentDelta) for delta in deltas)
        return deltas

    def whole(self, tokens: Sequence[Token], tail: str) -> list[Delta]:
        """The whole answer at once, with the same content and calls as its stream."""
        told = list(tokens) or [Token(0, "")]
        last = replace(told[-1], text=told[-1].text + tail)
        return [delta for one in told[:-1] for delta in self.feed(one, last=False)] + self.feed(last, last=True)

    @property
    def calls(self) -> bool:
        """Whether a call has begun."""
        return self._calls
