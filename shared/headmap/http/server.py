"""Run an application with uvicorn so that SIGTERM, SIGINT and a failure of its own drain it before it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading

import uvicorn
from fastapi import FastAPI

from headmap.settings import Settings

logger = logging.getLogger(__name__)

_LAST_ANSWERS_SECONDS = 5
_END_SECONDS = 30
_TICKS_BETWEEN_LOOKS = 5  # of uvicorn's, a tenth of a second each


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # modules and models stay; scanning their half a million objects would hold up every request

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_BETWEEN_LOOKS == 0 and not self.failed:
            look = getattr(self._app.state, "failure", None)
            failure = None if look is None else look()
            if failure is not None:
                logger.critical("%s; this process ends, to be started again", failure)
                self.failed = self.should_exit = True
                # What touches a broken device may hang.
                end = threading.Timer(self._drain_seconds + _LAST_ANSWERS_SECONDS + _END_SECONDS, os._exit, (1,))
                end.daemon = True
                end.start()
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


def serve(
    app: FastAPI,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    bound: socket.socket | None = None,
) -> bool:
    """Serve until a signal, on `bound` where it is given. Returns whether it went well: started, and did not fail.

    Call it on the main thread. The application may have two functions on its `state`. `failure()` is called twice a
    second and must not block; it returns why the process can no longer serve, which ends it as a signal does. Running
    requests have `settings.drain_seconds` to finish; then `give_up()` is awaited, so that open requests get an answer.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds) + _LAST_ANSWERS_SECONDS,
    )
    server = _Server(config, app, settings.drain_seconds)
    # Once drained, uvicorn raises the signal again under the handlers it found; with these it then ends normally.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    server.run(sockets=None if bound is None else [bound])
    return server.started and not server.failed
