"""A response of /v1/responses as it grows: its output items, and an event for each step.

A whole answer goes through the same steps as a stream, so both end with the same response.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from headmap.engine.messages import Finished
from headmap.errors import HeadmapError
from services.inference.bridge import Generation
from services.inference.http.cache_details import kv_details
from services.inference.http.schemas.responses import (
    IncompleteDetails,
    InputTokensDetails,
    ResponseBody,
    ResponsesRequest,
    ResponseUsage,
)
from services.inference.tools.calls import CallArguments, CallBegins, ContentDelta, Delta

Event = dict[str, Any]


def begin(body: ResponsesRequest, identity: str, created: int, model: str) -> ResponseBody:
    """The response before its first token."""
    asked_format = None if body.text is None else body.text.format
    told_format = (
        {"type": "text"} if asked_format is None else asked_format.model_dump(by_alias=True, exclude_none=True)
    )
    return ResponseBody(
        id=identity,
        created_at=created,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata if isinstance(body.metadata, dict) else {},
        model=model,
        output=[],
        parallel_tool_calls=bool(body.parallel_tool_calls),
        previous_response_id=body.previous_response_id,
        store=body.store,
        temperature=0.0 if body.temperature is None else body.temperature,
        text={"format": told_format},
        tool_choice=body.tool_choice or "auto",
        tools=list(body.tools or ()),
        top_p=1.0 if body.top_p is None else body.top_p,
    )


class ResponseWriter:
    """Writes `document` from an answer's deltas; each step returns its events."""

    def __init__(self, document: ResponseBody) -> None:
        self.document = document
        self._count = 0
        self._open: dict[str, Any] | None = None

    def start(self) -> Iterator[Event]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self.document.model_dump())

    def feed(self, deltas: Iterable[Delta]) -> Iterator[Event]:
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    if self._open is None or self._open["type"] != "message":
                        yield from self._close()
                        yield from self._open_message()
                    yield self._on_text(text)
                case CallBegins(_, identity, name):
                    yield from self._close()
                    yield from self._open_call(identity, name)
                case CallArguments(_, text):
                    yield self._on_arguments(text)

    def finish(self, generation: Generation, finished: Finished) -> Iterator[Event]:
        """The answer is whole."""
        if self._open is None and not self.document.output:
            yield from self._open_message()
        whole = finished.finish_reason != "length"
        yield from self._close("completed" if whole else "incomplete")
        document, new = self.document, len(finished.token_ids)
        prompt = generation.request.prompt.prompt_tokens
        document.usage = ResponseUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=finished.reused_tokens),
            output_tokens=new,
            total_tokens=prompt + new,
        )
        document.kv = kv_details(generation, finished)
        document.status = "completed" if whole else "incomplete"
        document.incomplete_details = None if whole else IncompleteDetails()
        yield self._event(f"response.{document.status}", response=document.model_dump())

    def fail(self, error: HeadmapError) -> Iterator[Event]:
        """The answer failed on its way."""
        self.document.status = "failed"
        code = "server_error" if error.status >= 500 else error.code
        self.document.error = {"code": code, "message": error.detail}
        yield self._event("response.failed", response=self.document.model_dump())

    # ---- items

    @property
    def _index(self) -> int:
        return len(self.document.output) - 1

    def _open_message(self) -> Iterator[Event]:
        yield self._add(
            {"id": _id("msg"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        )
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._item["content"].append(part)
        yield self._event("response.content_part.added", **self._place, content_index=0, part=dict(part))

    def _on_text(self, text: str) -> Event:
        self._item["content"][0]["text"] += text
        return self._event("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=[])

    def _open_call(self, call: str, name: str) -> Iterator[Event]:
        item = {"type": "function_call", "call_id": call, "name": name, "arguments": "", "status": "in_progress"}
        yield self._add({"id": _id("fc"), **item})

    def _on_arguments(self, text: str) -> Event:
        self._item["arguments"] += text
        return self._event("response.function_call_arguments.delta", **self._place, delta=text)

    def _close(self, status: str = "completed") -> Iterator[Event]:
        if self._open is None:
            return
        item, place = self._open, self._place
        item["status"] = status
        if item["type"] == "message":
            part = dict(item["content"][0])
            yield self._event("response.output_text.done", **place, content_index=0, text=part["text"], logprobs=[])
            yield self._event("response.content_part.done", **place, content_index=0, part=part)
        else:
            yield self._event(
                "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
            )
        yield self._event("response.output_item.done", output_index=self._index, item=_copy(item))
        self._open = None

    def _add(self, item: dict[str, Any]) -> Event:
        self._open = item
        self.document.output.append(item)
        return self._event("response.output_item.added", output_index=self._index, item=_copy(item))

    @property
    def _item(self) -> dict[str, Any]:
        if self._open is None:
            raise RuntimeError("no output item is open")
        return self._open

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": self._index}

    def _event(self, kind: str, **members: Any) -> Event:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **members}


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now; the item itself goes on growing."""
    return {name: [dict(one) for one in value] if isinstance(value, list) else value for name, value in item.items()}
