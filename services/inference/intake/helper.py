"""The server's side of a helper process: it does what a client's bytes could make slow or fatal, and may be ended.

So hostile bytes can harm only the process that works on them, never the model's process.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import ModuleType

from headmap.errors import ShuttingDown
from headmap.sandbox import Channel, Head, Sandbox

TASKS_PER_PROCESS = 1000
"""Another process then takes its place, which frees what the first one leaked."""


class Helper:
    """One process of `module`, started when it is needed, and its successor when it ends.

    One thread at a time talks to it, a task after another: `begin`, then `send`, what there is to receive from its
    `channel`, and `answered`, once or several times. Any thread may `kill` or `close`; whoever talks meanwhile gets an
    EOFError or OSError. `told`: what the process that runs has been told for tasks to come.
    """

    def __init__(self, module: ModuleType, arguments: Sequence[object] = ()) -> None:
        self._module, self._arguments = module.__name__, [str(one) for one in arguments]
        self._running: Sandbox | None = None
        self._killed: list[Sandbox] = []
        self._tasks = 0
        self._owes = self._closed = False
        self._lock = threading.Lock()
        self.told: set[str] = set()

    @property
    def pid(self) -> int | None:
        return None if self._running is None else self._running.pid

    @property
    def channel(self) -> Channel:
        """The channel to the running process. Raises EOFError if no process runs."""
        running = self._running
        if running is None:
            raise EOFError("the process was ended")
        return running.channel

    def begin(self) -> None:
        """Start a task, and a process where none runs. Raises ShuttingDown."""
        if self._owes or self._tasks >= TASKS_PER_PROCESS:
            self.kill()
        with self._lock:
            if self._closed:
                raise ShuttingDown("the server is shutting down")
            self._reap()
            if self._running is None:
                self._running, self._tasks, self.told = Sandbox(self._module, self._arguments), 0, set()
        self._tasks += 1

    def send(self, head: Head, body: bytes | bytearray = b"") -> None:
        self._owes = True
        self.channel.send(head, body)

    def answered(self) -> None:
        """All of an answer has been received. A process that still owes one is of no use for another task."""
        self._owes = False

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
        return None if running is None else running.end()

    def kill(self) -> None:
        """End the process that runs, if one does, whatever it is at. Does not wait."""
        with self._lock:
            running, self._running = self._running, None
            self._owes = False
            if running is not None:
                running.kill()
                self._killed.append(running)

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
        self.kill()
        with self._lock:
            self._reap()

    def _reap(self) -> None:
        while self._killed:
            self._killed.pop().end()
