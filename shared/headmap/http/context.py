"""The id of the request being served, for logs and error documents. No web framework, so workers log with it too."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("headmap_request_id", default=None)
