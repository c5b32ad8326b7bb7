"""The server's side of a helper process: it does what a client's bytes could make slow or fatal, and may be ended.

So hostile bytes can harm only the process that works on them, never the model's process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import ModuleType

from headmap.errors import ShuttingDown
from services.inference.intake.messages import Head, receive, receive_head, receive_into, send

TASKS_PER_PROCESS = 1000
"""Another process then takes its place, which frees what the first one leaked."""

# What Python needs to start. The server's environment holds keys and addresses, which a helper must not see.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")

_Running = tuple["subprocess.Popen[bytes]", socket.socket]


class Helper:
    """One process of `module`, started when it is needed, and its successor when it ends.

    One thread at a time talks to it, a task after another: `begin`, then `send`, what there is to receive, and
    `answered`, once or several times. Any thread may `kill` or `close`; whoever talks meanwhile gets an EOFError or
    OSError. `told`: what the process that runs has been told for tasks to come.
    """

    def __init__(self, module: ModuleType, arguments: Sequence[object] = ()) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", module.__name__, *map(str, arguments)]
        self._running: _Running | None = None
        self._killed: list[_Running] = []
        self._tasks = 0
        self._owes = self._closed = False
        self._lock = threading.Lock()
        self.told: set[str] = set()

    @property
    def pid(self) -> int | None:
        return None if self._running is None else self._running[0].pid

    def begin(self) -> None:
        """Start a task, and a process where none runs. Raises ShuttingDown."""
        if self._owes or self._tasks >= TASKS_PER_PROCESS:
            self.kill()
        with self._lock:
            if self._closed:
                raise ShuttingDown("the server is shutting down")
            self._reap()
            if self._running is None:
                self._running, self._tasks, self.told = self._start(), 0, set()
        self._tasks += 1

    def send(self, head: Head, body: bytes | bytearray = b"") -> None:
        self._owes = True
        send(self._channel(), head, body)

    def answered(self) -> None:
        """All of an answer has been received. A process that still owes one is of no use for another task."""
        self._owes = False

    def receive(self) -> tuple[Head, bytearray]:
        return receive(self._channel())

    def receive_head(self) -> tuple[Head, int]:
        return receive_head(self._channel())

    def receive_into(self, view: memoryview) -> None:
        receive_into(self._channel(), view)

    def lost(self, error: Exception) -> int | None:
        """The exit code of the process that talks no more, once it is ended, or None if `kill` did that.

        Raises ShuttingDown if `close` did.
        """
        with self._lock:
            running, self._running = self._running, None
            closed = self._closed
        self._owes = False
        if closed:
            raise ShuttingDown("the server is shutting down") from error
        if running is None:
            return None
        process, channel = running
        channel.close()
        try:
            return process.wait(1)  # once this is closed, an idle process ends by itself
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self) -> None:
        """End the process that runs, if one does, whatever it is at. Does not wait."""
        with self._lock:
            running, self._running = self._running, None
            self._owes = False
            if running is not None:
                running[0].kill()
                with contextlib.suppress(OSError):  # it may have gone already
                    running[1].shutdown(socket.SHUT_RDWR)
                self._killed.append(running)

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
        self.kill()
        with self._lock:
            self._reap()

    def _channel(self) -> socket.socket:
        running = self._running
        if running is None:
            raise EOFError("the process was ended")
        return running[1]

    def _reap(self) -> None:
        while self._killed:
            process, channel = self._killed.pop()
            channel.close()
            process.wait()

    def _start(self) -> _Running:
        own, other = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with other:
            process = subprocess.Popen(  # noqa: S603  our own module
                self._command, stdin=other.fileno(), stdout=subprocess.DEVNULL, env=environment
            )
        return process, own
