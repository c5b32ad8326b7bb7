"""Messages between the server and its helper processes: a head in JSON and a body of bytes, over a socket."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

_LENGTHS = struct.Struct("!IQ")  # of the head and of the body
_NICE = 5  # the event loop and the model come first

Head = dict[str, Any]


def send(to: socket.socket, head: Head, body: bytes | bytearray = b"") -> None:
    encoded = json.dumps(head).encode()
    to.sendall(_LENGTHS.pack(len(encoded), len(body)) + encoded)
    to.sendall(body)


def receive(sender: socket.socket) -> tuple[Head, bytearray]:
    """A message. Raises EOFError if the other end is closed."""
    head, length = receive_head(sender)
    body = bytearray(length)
    receive_into(sender, memoryview(body))
    return head, body


def receive_head(sender: socket.socket) -> tuple[Head, int]:
    """A message's head, and the length of its body. Raises EOFError if the other end is closed."""
    lengths = bytearray(_LENGTHS.size)
    receive_into(sender, memoryview(lengths))
    head_length, length = _LENGTHS.unpack(lengths)
    head = bytearray(head_length)
    receive_into(sender, memoryview(head))
    return json.loads(head), length


def receive_into(sender: socket.socket, view: memoryview) -> None:
    """Fill `view`. Raises EOFError if the other end is closed before it is full."""
    while view:
        count = sender.recv_into(view)
        if not count:
            raise EOFError("the other end is closed")
        view = view[count:]


def serve(answer: Callable[[socket.socket, Head, bytearray], None], most_bytes: int) -> None:
    """The main loop of a helper process: answer the server's messages over standard input until it closes its end.

    most_bytes: of the process's address space.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group; the server finishes what it accepted
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    _mute_libraries()
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=sys.stdin.fileno()) as server, contextlib.suppress(EOFError):
        while True:
            answer(server, *receive(server))


def _mute_libraries() -> None:
    """Libraries write what is wrong with their input to descriptor 2, where any client could fill the server's log."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
