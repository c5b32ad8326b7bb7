"""The id of the request being served or worked for, for logs and error documents: every room may read it."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("headmap_request_id", default=None)
