"""Run an application with uvicorn so that SIGTERM and SIGINT drain it and the process then ends with 0."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket

import uvicorn
from fastapi import FastAPI

from headmap.settings import Settings

_LAST_ANSWERS_SECONDS = 5


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # modules and models stay; each look at their half a million objects would hold up every request

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
    """Serve until a signal, on `bound` where it is given. Returns whether the application started.

    Call it on the main thread. Running requests have `settings.drain_seconds` to finish once a signal came; then the
    application's `state.give_up()`, where it has one, is awaited, so that what still runs gets an answer.
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
    return server.started
