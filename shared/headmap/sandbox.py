"""Processes that read untrusted data. They have limits on memory and time, and no secrets.

Both ends talk over a socket, which the process has as its standard input. A message is a head in JSON and a body of
bytes. Knows no torch, no SQL and no HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

# What Python needs to start. Our own environment holds keys and addresses, which such a process must not see.
_ENVIRONMENT = ("PATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each thread would take address space
_LENGTHS = struct.Struct("!IQ")  # of the head and of the body
_NICE = 5  # the event loop and the model come first
_CPU_GRACE_SECONDS = 10
_END_SECONDS = 1  # in which a process that nobody talks to any more ends by itself

Head = dict[str, Any]


class Channel:
    """One end of the socket. Used by one thread at a time."""

    def __init__(self, end: socket.socket, *, seconds: float | None = None) -> None:
        """`seconds`: how long this end may be used; without end when None."""
        self._end = end
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def send(self, head: Head, body: bytes | bytearray = b"") -> None:
        """Raises OSError if the other end is closed, and TimeoutError past the deadline."""
        encoded = json.dumps(head).encode()
        self._hurry()
        self._end.sendall(_LENGTHS.pack(len(encoded), len(body)) + encoded)
        self._end.sendall(body)

    def receive(self) -> tuple[Head, bytearray]:
        """A message's head and body. Raises EOFError if the other end is closed, and TimeoutError."""
        head, length = self.receive_head()
        return head, self._exactly(length)

    def receive_head(self) -> tuple[Head, int]:
        """A message's head, and the length of its body, which is to be received next. Raises as `receive`."""
        head_length, length = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        return json.loads(self._exactly(head_length)), length

    def receive_into(self, view: memoryview) -> None:
        """Fill `view` with the next bytes of a body. Raises as `receive`."""
        while view:
            self._hurry()
            count = self._end.recv_into(view)
            if not count:
                raise EOFError("the other end is closed")
            view = view[count:]

    def wake(self) -> None:
        """Close the channel, from any thread. A thread that waits for a message gets EOFError or OSError."""
        with contextlib.suppress(OSError):  # it may be closed already
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._end.close()

    def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        self.receive_into(memoryview(data))
        return data

    def _hurry(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("past the deadline")
            self._end.settimeout(left)


class Sandbox:
    """A module of ours that runs as a process until `end`, or for the length of a `with` block.

    It calls `confine` or `serve` first of all. `seconds`: how long we may talk to it; without end when None. `files`:
    descriptors that it inherits under their own numbers. Raises OSError if no process can be started.
    """

    def __init__(
        self, module: str, arguments: Sequence[str] = (), *, seconds: float | None = None, files: Sequence[int] = ()
    ) -> None:
        own, other = socket.socketpair()
        self.channel = Channel(own, seconds=seconds)
        with other, contextlib.ExitStack() as failed:
            failed.callback(self.channel.close)
            self._process = subprocess.Popen(  # noqa: S603  our own module, no shell
                [sys.executable, "-P", "-W", "ignore", "-m", module, *arguments],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=files,
            )
            failed.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it at once, from any thread; whoever talks to it gets EOFError or OSError."""
        self._process.kill()
        self.channel.wake()

    def end(self) -> int:
        """End it if it still runs. Returns its exit code, negative for a signal."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_SECONDS)
        self._process.kill()
        return self._process.wait()


def _environment() -> dict[str, str]:
    known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**known, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def confine(*, memory_bytes: int, seconds: float | None = None) -> Channel:
    """Drop the rights that a process with untrusted data must not have, and return its end of the socket.

    `memory_bytes`: of address space. `seconds`: of processor time, after which the kernel kills it; that also ends a
    process whose parent was killed. Without end when None.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group; the parent finishes what it accepted
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    _mute_libraries()
    processor = resource.RLIM_INFINITY if seconds is None else int(seconds) + _CPU_GRACE_SECONDS
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not every system has them all
            resource.setrlimit(limit, (most, most))
    return Channel(socket.socket(fileno=sys.stdin.fileno()))


def serve(answer: Callable[[Channel, Head, bytearray], None], *, memory_bytes: int) -> None:
    """Answer messages one by one until the other end closes the channel. Limits are those of `confine`."""
    channel = confine(memory_bytes=memory_bytes)
    with contextlib.closing(channel), contextlib.suppress(EOFError, ConnectionError):
        while True:
            answer(channel, *channel.receive())


def _mute_libraries() -> None:
    """C libraries write what is wrong with a file to descriptor 2, where any client could fill the server's log."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
