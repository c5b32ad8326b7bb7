"""Server-sent events for generations: every stream ends by itself, also while the server drains."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent

from headmap.errors import HeadmapError

logger = logging.getLogger(__name__)

_PING_SECONDS = 15
_SLOWEST_READER_SECONDS = 120.0
_LAST_EVENT_SECONDS = 5.0

_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "data")}}
OPENAPI: dict[str, Any] = {"text/event-stream": {"schema": _EVENT}}
"""Of each event."""


def stream_response(
    events: AsyncGenerator[ServerSentEvent, None], drain_seconds: float, headers: Mapping[str, str] | None = None
) -> EventSourceResponse:
    """`events` as a response. At shutdown they have `drain_seconds` to end, as plain requests do."""
    return EventSourceResponse(
        events,
        sep="\n",
        ping=_PING_SECONDS,
        send_timeout=_SLOWEST_READER_SECONDS,
        shutdown_event=anyio.Event(),
        shutdown_grace_period=drain_seconds + _LAST_EVENT_SECONDS,
        headers={"X-Accel-Buffering": "no", **(headers or {})},
    )


def as_stream_error(error: Exception) -> HeadmapError:
    """The form in which a client sees an error in the middle of a stream."""
    if isinstance(error, HeadmapError):
        return error
    logger.error("a stream failed", exc_info=error)
    return HeadmapError("internal error")


def event(data: dict[str, Any], name: str | None = None) -> ServerSentEvent:
    return raw_event(json.dumps(data, ensure_ascii=False), name)


def raw_event(data: str, name: str | None = None) -> ServerSentEvent:
    """Lines end with a single newline, because some clients expect that."""
    return ServerSentEvent(data, event=name, sep="\n")
