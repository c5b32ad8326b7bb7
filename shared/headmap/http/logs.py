"""Logs with one JSON object per line, which has the request's id, its trace's and the fields of `extra`.

Repeated warnings and errors are limited to a burst and then one per second, so that no caller can fill the disk.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from headmap.context import request_id
from headmap.settings import Settings
from headmap.tracing import current_span

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            entry["request_id"] = current
        entry |= current_span.get().ids
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class RepeatFilter(logging.Filter):
    """Passes `burst` warnings or errors of each kind, then one more per second. INFO and below always pass.

    A kind is a line of code, its message without values, and the exception's type. The next record that passes has
    the number of dropped records of its kind in `not_shown`.
    """

    def __init__(self, burst: int = 20, most_kinds: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst, self._most_kinds, self._clock = burst, most_kinds, clock
        self._kinds: OrderedDict[tuple[object, ...], list[float]] = OrderedDict()  # -> left, last seen, dropped
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = (record.pathname, record.lineno, str(record.msg), record.exc_info and record.exc_info[0])
        with self._lock:
            now = self._clock()
            left, looked_at, not_shown = self._kinds.pop(kind, [self._burst, now, 0])
            left = min(self._burst, left + now - looked_at)
            shows = left >= 1
            self._kinds[kind] = [left - 1, now, 0] if shows else [left, now, not_shown + 1]
            while len(self._kinds) > self._most_kinds:
                self._kinds.popitem(last=False)
        if shows and not_shown:
            record.not_shown = int(not_shown)
        return shows


def setup_logging(settings: Settings, service: str) -> None:
    """Log as JSON to standard error at `settings.log_level`; replaces the root logger's handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    logging.getLogger("uvicorn.access").setLevel("WARNING")  # our own access log has ids and times
