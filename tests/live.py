"""Applications behind real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI

from headmap.http.server import Server
from headmap.settings import Settings


@contextmanager
def running(server: Server) -> Iterator[str]:
    """`server` on a thread; yields its URL."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def live(app: FastAPI, settings: Settings | None = None) -> Iterator[str]:
    """The application on a free port of loopback; yields its URL."""
    with running(Server(app, settings or Settings(drain_seconds=5), port=0)) as url:
        yield url


def connect(url: str, data: bytes = b"", seconds: float = 20.0) -> socket.socket:
    """A connection that has sent `data`."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), timeout=seconds)
    connection.sendall(data)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """What comes until the server closes; raises TimeoutError where it does not."""
    found = bytearray()
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    connection.close()
    return bytes(found)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to hold in time")
        time.sleep(0.01)
