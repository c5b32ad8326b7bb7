"""The process that decodes pictures. `image_pool` starts it and asks it over its standard input.

Only this process reads the pictures that clients send. It has no model, no key and no registry. Its memory is limited,
and it ends when the server closes the connection. Each message is a head in JSON and a body of bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

from headmap.errors import HeadmapError, ImageTooLarge
from headmap.pictures.decode import TOO_MUCH_MEMORY, decode_picture
from services.inference.intake.images import EncodedImage, ImageSource, Limits, name_of, read_inline

_LENGTHS = struct.Struct("!IQ")  # of the head and of the body
_NICE = 5  # the event loop and the model come first
_BASE_BYTES = 2**29
_BYTES_PER_PIXEL = 24  # copies of a picture, 4 bytes a pixel: decoded, turned, converted, and its pixels being sent


def main(arguments: list[str]) -> None:
    limits = Limits(*map(int, arguments))
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group; the server finishes what it accepted
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    _mute_libraries()
    most = _BASE_BYTES + _BYTES_PER_PIXEL * limits.max_image_pixels + 4 * limits.max_image_bytes
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with socket.socket(fileno=sys.stdin.fileno()) as server:
        while True:
            try:
                head, length = receive_head(server)
            except EOFError:
                return
            body = bytearray(length)
            receive_into(server, memoryview(body))
            send(server, *_answer(head, body, limits))


def _mute_libraries() -> None:
    """Silence C libraries. They write about broken pictures to descriptor 2, where clients could fill the log."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def send(to: socket.socket, head: dict[str, Any], body: bytes | bytearray = b"") -> None:
    encoded = json.dumps(head).encode()
    to.sendall(_LENGTHS.pack(len(encoded), len(body)) + encoded)
    to.sendall(body)


def receive_head(sender: socket.socket) -> tuple[dict[str, Any], int]:
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


def _answer(head: dict[str, Any], body: bytearray, limits: Limits) -> tuple[dict[str, Any], bytes]:
    """The picture's size and pixels, (height, width, 3) bytes; or the picture's fault."""
    place = head["field"], head["number"]
    try:
        if head["inline"]:
            encoded = read_inline(ImageSource(body.decode(), *place), limits)
        else:
            encoded = EncodedImage(bytes(body), *place)
        image = decode_picture(encoded.data, encoded.name, max_pixels=limits.max_image_pixels)
        return {"width": image.width, "height": image.height}, image.tobytes()
    except HeadmapError as error:
        return {"code": error.code, "detail": error.detail}, b""
    except MemoryError:
        return {"code": ImageTooLarge.code, "detail": f"{name_of(*place)}: {TOO_MUCH_MEMORY}"}, b""


if __name__ == "__main__":
    main(sys.argv[1:])
