"""Run an application with uvicorn so that SIGTERM and SIGINT drain it and the process then ends with 0."""

from __future__ import annotations

import signal
import socket

import uvicorn
from fastapi import FastAPI

from headmap.settings import Settings


def serve(
    app: FastAPI,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    bound: socket.socket | None = None,
) -> bool:
    """Serve until a signal, on `bound` where it is given. Returns whether the application started.

    Call it on the main thread. Running requests have `settings.drain_seconds` to finish once a signal came.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = uvicorn.Server(config)
    # Once drained, uvicorn raises the signal again under the handlers it found; with these it then ends normally.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    server.run(sockets=None if bound is None else [bound])
    return server.started
