"""Limits on a server's connections: their number, their idle time, and how much they parse.

An idle connection has no request in progress. It has sent nothing, or only part of a request's head, or it still sends
the body of a request that was already answered.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from itertools import islice, takewhile
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headmap.errors import HeadmapError, HeadTooLarge, MalformedRequest, RequestTimeout, TooManyConnections
from headmap.http.middleware import NO_PAGE_POLICY
from headmap.http.problems import SECURITY_HEADERS, error_response
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_MOST_FILES = 1 << 16
_OTHER_FILES = 128
_MOST_HEADERS = 128
_HEAD_BYTES = 1 << 14
_READ_BYTES = 1 << 16  # the server parses the bytes of one read in one step
_FREE_CHUNKS = 512
_CHUNK_BYTES = 256
_ENDED_A_TICK = 50  # each answer takes a third of a millisecond


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as allowed, to 65,536 at most. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _MOST_FILES if hard == unlimited else min(hard, _MOST_FILES)
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_FILES if soft == unlimited else soft


def most_connections(settings: Settings, files: int) -> int:
    """Return `settings.max_connections`, or fewer if `files` is low: a dashboard request takes two files."""
    return max(1, min(settings.max_connections, (files - _OTHER_FILES) // 2))


class Connections:
    """All connections of one server. Use it on the server's event loop.

    At `most` connections, a new one replaces the connection that has been idle longest. If none is idle, the server
    refuses the new connection.
    """

    def __init__(self, settings: Settings, most: int) -> None:
        self.most = most
        self.file_shortages = 0
        self._settings = settings
        self._all: set[HttpProtocol] = set()
        self._idle: dict[HttpProtocol, float] = {}  # the time each became idle, oldest first
        self._evicted = self._refused = 0

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, connection: HttpProtocol) -> bool:
        """Add `connection` and return True, or return False if there is no room."""
        if len(self._all) >= self.most:
            oldest = next(iter(self._idle), None)
            if oldest is None:
                self._refused += 1
                return False
            self._evicted += 1
            self.forget(oldest)
            oldest.transport.abort()
        self._all.add(connection)
        self.idle(connection)
        return True

    def idle(self, connection: HttpProtocol) -> None:
        """Mark `connection` as idle from now on."""
        self._idle.pop(connection, None)
        if connection in self._all:
            self._idle[connection] = connection.loop.time()

    def busy(self, connection: HttpProtocol) -> None:
        self._idle.pop(connection, None)

    def forget(self, connection: HttpProtocol) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)

    def expire(self, now: float) -> None:
        """Close some connections that have been idle too long. `now` is the event loop's time. Call it every tick."""
        due = now - self._settings.header_seconds
        for connection, _ in list(takewhile(lambda entry: entry[1] <= due, islice(self._idle.items(), _ENDED_A_TICK))):
            self.busy(connection)
            connection.expire(self._settings.header_seconds)

    def look(self, now: float) -> None:
        """Abort connections whose client does not read, and log how many were refused. Call it every second."""
        for connection in list(self._all):
            connection.look(now, self._settings.reader_seconds)
        if self._evicted or self._refused or self.file_shortages:
            logger.warning(
                "connections: %d open, at most %d; %d idle ones were closed to make room, %d refused, "
                "%d times there was no file left for one",
                *(len(self._all), self.most, self._evicted, self._refused, self.file_shortages),
            )
            self._evicted = self._refused = self.file_shortages = 0


class _Parser(h11.Connection):
    """h11's parser with limits on the number of headers and small chunks: each costs about 10 us of the event loop."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _HEAD_BYTES)
        self.fault: HeadmapError | None = None
        self._chunks = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            event = super().next_event()
            self._count(event)
        except h11.RemoteProtocolError as error:
            kind = HeadTooLarge if error.error_status_hint == HeadTooLarge.status else MalformedRequest
            self.fault = kind(str(error)[:200])
            raise
        return event

    def _count(self, event: object) -> None:
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._bytes // _CHUNK_BYTES:
                raise h11.RemoteProtocolError(f"body: chunks of less than {_CHUNK_BYTES} bytes on average")
        elif isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            if len(event.headers) > _MOST_HEADERS:
                raise h11.RemoteProtocolError(f"more than {_MOST_HEADERS} headers", HeadTooLarge.status)


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol within the limits of `connections`. Refusals get the same error documents."""

    def __init__(self, *, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.conn = _Parser()
        self._connections = connections
        self._heard = False
        self._unsent, self._read_at = 0, self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        if not self._connections.admit(self):
            self._refuse(TooManyConnections(f"all {self._connections.most} connections have a request at work"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._at_work and not self._heard:
            self._heard = True
            self._connections.idle(self)
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._heard = False
        self._connections.idle(self)
        self._note()

    def expire(self, seconds: float) -> None:
        """End the connection because it was idle. If it has sent part of a request, answer first."""
        if self._heard and self.conn.our_state is h11.IDLE:
            self._refuse(RequestTimeout(f"no whole request head within {seconds:g} seconds"))
        else:
            self.transport.close()

    def look(self, now: float, reader_seconds: float) -> None:
        """Abort the connection if the client has read none of the waiting bytes for `reader_seconds`."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or self._unsent == 0 or unsent < self._unsent:
            self._read_at = now
        self._unsent = unsent
        if now - self._read_at > reader_seconds:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(cast(_Parser, self.conn).fault or MalformedRequest(msg))

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _note(self) -> None:
        if self._at_work:
            self._heard = False
            self._connections.busy(self)

    def _refuse(self, error: HeadmapError) -> None:
        """Answer instead of the application, unless the application has begun its answer, and close."""
        path = ""
        if self._at_work:
            path = self.scope["path"]
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = error_response(error, path)
            answer.headers.update(
                {**SECURITY_HEADERS, "Content-Security-Policy": NO_PAGE_POLICY, "Connection": "close"}
            )
            headers = [*self.server_state.default_headers, *answer.raw_headers]
            self._send(h11.Response(status_code=answer.status_code, headers=headers))
            self._send(h11.Data(data=bytes(answer.body)))
            self._send(h11.EndOfMessage())
        self.transport.close()

    def _send(self, event: h11.Event) -> None:
        self.transport.write(self.conn.send(event) or b"")
