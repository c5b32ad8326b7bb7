"""Run an application with uvicorn. Limits its connections, and drains it before it ends on a signal or a failure."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import threading
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from headmap.http.connections import Connections, HttpProtocol, most_connections, raise_file_limit
from headmap.settings import Settings

logger = logging.getLogger(__name__)

_LAST_ANSWERS_SECONDS = 5
_END_SECONDS = 30
_KEEP_ALIVE_SECONDS = 5  # the gateway closes idle connections before that
_ACCEPTED_A_TURN = 256  # connections that one turn of the event loop accepts before it counts them
_TICKS_BETWEEN_LOOKS = 5  # uvicorn's ticks, a tenth of a second each
_TICKS_A_SECOND = 10
_FILE_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server(uvicorn.Server):
    """Every process that answers HTTP runs one; `serve` runs it on the main thread.

    The application may have two functions on its `state`. The server calls `failure()` twice a second; it must not
    block. If it returns a reason why the process can no longer serve, the process ends as after a signal. Running
    requests have `settings.drain_seconds` to finish. Then the server awaits `give_up()`, which answers open requests.
    """

    def __init__(self, app: FastAPI, settings: Settings, *, host: str = "127.0.0.1", port: int = 8000) -> None:
        """Raises the process's limit of open files."""
        most = most_connections(settings, raise_file_limit())
        self.connections = Connections(settings, most)
        protocol = partial(HttpProtocol, connections=self.connections)
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=cast(type[asyncio.Protocol], protocol),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(settings.drain_seconds) + _LAST_ANSWERS_SECONDS,
            backlog=max(16, min(_ACCEPTED_A_TURN, most // 4)),
        )
        super().__init__(config)
        self._app, self._drain_seconds = app, settings.drain_seconds
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._handle)
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_BETWEEN_LOOKS == 0 and not self.failed:
            look = getattr(self._app.state, "failure", None)
            failure = None if look is None else look()
            if failure is not None:
                logger.critical("%s; this process ends, to be started again", failure)
                self.failed = self.should_exit = True
                # Code that uses a broken device may hang.
                end = threading.Timer(self._drain_seconds + _LAST_ANSWERS_SECONDS + _END_SECONDS, os._exit, (1,))
                end.daemon = True
                end.start()
        now = asyncio.get_running_loop().time()
        self.connections.expire(now)
        if counter % _TICKS_A_SECOND == 0:
            self.connections.look(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        giving_up = asyncio.create_task(self._give_up())
        await super().shutdown(sockets)
        giving_up.cancel()

    async def _give_up(self) -> None:
        await asyncio.sleep(self._drain_seconds)
        give_up = getattr(self._app.state, "give_up", None)
        if give_up is not None:
            await give_up()

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _FILE_SHORTAGES:  # each retry would log it
            self.connections.file_shortages += 1
        else:
            loop.default_exception_handler(context)


class _OnlyServer(Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # modules and models stay; scanning their half a million objects would hold up every request


def serve(
    app: FastAPI,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    bound: socket.socket | None = None,
) -> bool:
    """Serve until a signal, on `bound` if given. Returns True if the server started and did not fail.

    Call it on the main thread.
    """
    server = _OnlyServer(app, settings, host=host, port=port)
    # Once drained, uvicorn raises the signal again under the handlers it found; with these it then ends normally.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    server.run(sockets=None if bound is None else [bound])
    return server.started and not server.failed
