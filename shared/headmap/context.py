"""The id of the current request, for logs and error documents. Every package may read it."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("headmap_request_id", default=None)
