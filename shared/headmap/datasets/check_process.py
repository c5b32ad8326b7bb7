"""Uploaded archives are checked in a process of their own (`headmap.sandbox`), which hands back checked pages.

A malicious archive can harm only that process. The server never reads the archive: it gets records and picture files
one page at a time, and files them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from headmap.datasets.checking import MAX_INDEX_BYTES, Upload, UploadLimits, check_archive
from headmap.errors import DatasetTooLarge, HeadmapError, InvalidDataset, Unavailable
from headmap.sandbox import Channel, Head, Sandbox, confine

_BASE_BYTES = 2**29
_BYTES_PER_PIXEL = 24  # copies of a picture, 4 bytes a pixel: decoded, turned, converted
_REFUSALS = {error.code: error for error in (InvalidDataset, DatasetTooLarge)}


@dataclass(frozen=True)
class _Limits:
    max_dataset_bytes: int
    max_image_bytes: int
    max_image_pixels: int

    @property
    def memory_bytes(self) -> int:
        return _BASE_BYTES + _BYTES_PER_PIXEL * self.max_image_pixels + 4 * self.max_image_bytes + 4 * MAX_INDEX_BYTES


class ArchiveCheck:
    """The check of one archive. Use it as a context: the process ends with the block.

    `file` must be a real file; it stays the caller's, who leaves it alone meanwhile. `seconds`: for the check, and for
    all that is done with its pages. Raises Unavailable if no process can be started.
    """

    def __init__(self, file: BinaryIO, limits: UploadLimits, *, seconds: float) -> None:
        self._seconds = seconds
        told = (limits.max_dataset_bytes, limits.max_image_bytes, limits.max_image_pixels)
        file.flush()
        number = file.fileno()
        arguments = [str(number), str(seconds), *map(str, told)]
        try:
            self._sandbox = Sandbox(__name__, arguments, seconds=seconds, files=[number])
        except OSError as error:
            raise Unavailable(f"archive: no process can be started to look it through ({error})") from error

    def __enter__(self) -> ArchiveCheck:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.end()

    def upload(self) -> Upload:
        """Wait for the result of check_archive. Raises its errors, and Unavailable if the process ended."""
        head, _ = self._receive()
        return Upload(**head, rows=self._rows)

    def give_up(self) -> None:
        """End the process, from any thread; `upload` and its rows then raise Unavailable."""
        self._sandbox.kill()

    def _rows(self) -> Iterator[tuple[str, bytes]]:
        self._send({"rows": True})
        while True:
            head, body = self._receive()
            if "record" not in head:
                return
            yield head["record"], bytes(body)

    def _send(self, head: Head) -> None:
        try:
            self._sandbox.channel.send(head)
        except OSError as error:
            raise self._ended() from error

    def _receive(self) -> tuple[Head, bytearray]:
        try:
            head, body = self._sandbox.channel.receive()
        except TimeoutError as error:
            raise InvalidDataset(
                f"archive: not looked through within {self._seconds:g} seconds", param="archive"
            ) from error
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if "code" in head:
            raise _REFUSALS[head["code"]](head["detail"], param="archive")
        return head, body

    def _ended(self) -> Unavailable:
        return Unavailable(
            f"archive: the process that looked it through ended ({self._sandbox.end()})", param="archive"
        )


def main(arguments: list[str]) -> None:
    number, seconds, *limits = arguments
    told = _Limits(*map(int, limits))
    server = confine(memory_bytes=told.memory_bytes, seconds=float(seconds))
    try:
        with open(int(number), "rb") as file:
            _serve(server, file, told)
    except HeadmapError as error:
        server.send({"code": error.code, "detail": error.detail})
    except MemoryError:
        server.send({"code": InvalidDataset.code, "detail": "archive: it takes more memory than is allowed"})
    except (EOFError, BrokenPipeError):
        pass  # nobody asks any more


def _serve(server: Channel, file: BinaryIO, limits: UploadLimits) -> None:
    """Send the result of the check, then the pages at each request for them."""
    with check_archive(file, limits) as upload:
        server.send({name: value for name, value in vars(upload).items() if name != "rows"})
        while True:
            server.receive()
            for record, picture in upload.rows():
                server.send({"record": record}, picture)
            server.send({})


if __name__ == "__main__":
    main(sys.argv[1:])
