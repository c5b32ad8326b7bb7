"""The server's side of decoding: a few processes decode pictures, and any of them may die without harm.

They get text or bytes as a client sent them, and answer with sizes and pixels. So a hostile picture can harm only the
process that decodes it, never the model's process.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from queue import SimpleQueue

from PIL import Image

from headmap.errors import ImageTooLarge, InvalidImage, ShuttingDown, Unavailable
from headmap.settings import Settings
from services.inference.intake import image_process
from services.inference.intake.image_process import receive_head, receive_into, send
from services.inference.intake.images import EncodedImage, ImageSource

logger = logging.getLogger(__name__)

PICTURES_PER_PROCESS = 1000
"""Another process then takes its place, which frees what the first one leaked."""

_REFUSALS = {error.code: error for error in (InvalidImage, ImageTooLarge)}
_STRIP_BYTES = 1 << 20
# What Python needs to start. The server's environment holds keys and addresses, which a decoding process must not see.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class ImagePool:
    """At most `settings.prepare_workers` decoding processes, each started when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._all = tuple(_ImageProcess(settings) for _ in range(settings.prepare_workers))
        self._idle: SimpleQueue[_ImageProcess] = SimpleQueue()
        for process in self._all:
            self._idle.put(process)

    def decode(self, source: ImageSource | EncodedImage) -> Image.Image:
        """The picture, upright, as RGB. It blocks, so run it in a thread.

        Raises InvalidImage and ImageTooLarge, Unavailable if the process that decoded it ended, and ShuttingDown.
        """
        process = self._idle.get()
        try:
            return process.decode(source)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes, busy or idle."""
        for process in self._all:
            process.close()


class _ImageProcess:
    """One process, and its successor when it dies. One thread at a time decodes; any thread may close."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.image_decode_seconds
        self._limits = (settings.max_image_bytes, settings.max_image_pixels)
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._decoded = 0
        self._closed = False
        self._lock = threading.Lock()

    def decode(self, source: ImageSource | EncodedImage) -> Image.Image:
        if self._decoded >= PICTURES_PER_PROCESS:
            self._end()
        channel = self._channel()
        field, name, inline = source.field, source.name, isinstance(source, ImageSource)
        data = source.text.encode("utf-8", "replace") if isinstance(source, ImageSource) else source.data
        try:
            send(channel, {"field": field, "number": source.number, "inline": inline}, data)
            head, _ = receive_head(channel)
            self._decoded += 1
            if "code" not in head:
                return _receive_picture(channel, head["width"], head["height"])
        except TimeoutError as error:
            self._end()
            raise InvalidImage(f"{name}: not decoded within {self._seconds:g} seconds", param=field) from error
        except (EOFError, OSError) as error:
            code = self._end()
            if self._closed:
                raise ShuttingDown("the server is shutting down") from error
            logger.warning("the process that decoded a picture ended with %s", code)
            raise Unavailable(f"{name}: the process that decoded it ended ({code})", param=field) from error
        raise _REFUSALS[head["code"]](head["detail"], param=field)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._end()

    def _channel(self) -> socket.socket:
        """The connection to the running process, or to a new one. Raises ShuttingDown."""
        with self._lock:
            if self._closed:
                raise ShuttingDown("the server is shutting down")
            if self._running is None:
                self._running, self._decoded = self._start(), 0
            return self._running[1]

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        own, other = socket.socketpair()
        own.settimeout(self._seconds)
        command = [sys.executable, "-W", "ignore", "-m", image_process.__name__, *map(str, self._limits)]
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with other:
            process = subprocess.Popen(command, stdin=other.fileno(), stdout=subprocess.DEVNULL, env=environment)  # noqa: S603  our own module
        return process, own

    def _end(self) -> int | None:
        """End the process if there is one. Returns its exit code, which is negative for a signal from elsewhere."""
        with self._lock:
            running, self._running = self._running, None
        if running is None:
            return None
        process, channel = running
        channel.close()
        try:
            return process.wait(1)  # once this is closed, an idle process ends by itself
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _receive_picture(channel: socket.socket, width: int, height: int) -> Image.Image:
    """Reads strip by strip. A strip holds Python's lock for a millisecond; a whole picture would hold it for many."""
    image = Image.new("RGB", (width, height), None)
    rows = max(1, _STRIP_BYTES // (3 * width))
    strip = memoryview(bytearray(3 * width * rows))
    for top in range(0, height, rows):
        count = min(rows, height - top)
        view = strip[: 3 * width * count]
        receive_into(channel, view)
        image.paste(Image.frombytes("RGB", (width, count), bytes(view)), (0, top))
    return image
