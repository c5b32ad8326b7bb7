"""How families of models write calls in their answers. A chat template that knows tools shows its family's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.inference.tools.calls import CallReader, Tool
from services.inference.tools.formats import llama_json, mistral, tool_call_tags

MakeReader = Callable[[Sequence[Tool]], CallReader]


def format_of(template: str) -> MakeReader | None:
    """The reader of calls for a model with this chat template; None if their form is unknown here."""
    for form in (tool_call_tags, mistral, llama_json):
        if form.is_written_by(template):
            return form.reader
    return None
