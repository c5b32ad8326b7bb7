"""The server's side of decoding: helper processes decode pictures, and any of them may die without harm.

They get text or bytes as a client sent them, and answer with sizes and pixels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from PIL import Image

from headmap.errors import ImageTooLarge, InvalidImage, ShuttingDown, Unavailable
from headmap.http.receiving import RequestBytes
from headmap.settings import Settings
from services.inference.intake import image_process
from services.inference.intake.helper import Helper
from services.inference.intake.helper_pool import HelperPool
from services.inference.intake.images import EncodedImage, ImageSource

logger = logging.getLogger(__name__)

BYTES_PER_PIXEL = 3
_REFUSALS = {error.code: error for error in (InvalidImage, ImageTooLarge)}
_STRIP_BYTES = 1 << 20

Source = ImageSource | EncodedImage


class ImagePool:
    """`settings.prepare_workers` decoding processes and one more, each started when it is first needed.

    So one caller, which has one less than all, can use as many as there are workers.
    """

    def __init__(self, settings: Settings) -> None:
        self._seconds, self._most_pixels = settings.image_decode_seconds, settings.max_request_pixels
        limits = settings.max_image_bytes, settings.max_image_pixels
        self.pool = HelperPool([Helper(image_process, limits) for _ in range(settings.prepare_workers + 1)])

    @asynccontextmanager
    async def decoded(self, sources: Sequence[Source], held: RequestBytes) -> AsyncIterator[list[Image.Image]]:
        """The pictures of one request, upright, as RGB; a helper is held until they are used.

        Raises InvalidImage, also where they are not all decoded within `settings.image_decode_seconds`; ImageTooLarge;
        TooManyRequests where there is no memory for their pixels; Unavailable where the process that decoded one ended,
        and ShuttingDown. Cancelled, it ends the process that is at work.
        """
        async with self.pool.job(held.caller) as job:
            images: list[Image.Image] = []
            pixels = 0
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self._seconds
            for source in sources:
                try:
                    async with asyncio.timeout_at(deadline):
                        width, height = await job.do(partial(_open, source=source))
                        pixels += width * height
                        self._check(source, pixels)
                        held.take(BYTES_PER_PIXEL * width * height, source.field)
                        images.append(await job.do(partial(_decode, source=source)))
                except TimeoutError as error:
                    seconds = f"{self._seconds:g} seconds, the time of all pictures of a request"
                    raise InvalidImage(f"{source.name}: not decoded within {seconds}", param=source.field) from error
            yield images

    def _check(self, source: Source, pixels: int) -> None:
        if pixels > self._most_pixels:
            raise ImageTooLarge(
                f"{source.name}: {pixels} pixels in the request's pictures up to this one; at most {self._most_pixels}",
                param=source.field,
            )

    def close(self) -> None:
        """End all processes, at work or not."""
        self.pool.close()


def _open(helper: Helper, source: Source) -> tuple[int, int]:
    """The width and height that the header tells."""
    helper.begin()
    inline = isinstance(source, ImageSource)
    data = source.text.encode("utf-8", "replace") if isinstance(source, ImageSource) else source.data
    try:
        helper.send({"field": source.field, "number": source.number, "inline": inline}, data)
        return _size(helper, source)
    except (EOFError, OSError) as error:
        raise _ended(helper, source, error) from error


def _decode(helper: Helper, source: Source) -> Image.Image:
    try:
        helper.send({})
        image = _receive_picture(helper, *_size(helper, source))
    except (EOFError, OSError) as error:
        raise _ended(helper, source, error) from error
    helper.answered()
    return image


def _size(helper: Helper, source: Source) -> tuple[int, int]:
    head, length = helper.channel.receive_head()
    if not length:
        helper.answered()
    if "code" in head:
        raise _REFUSALS[head["code"]](head["detail"], param=source.field)
    return head["width"], head["height"]


def _ended(helper: Helper, source: Source, error: Exception) -> Unavailable:
    try:
        code = helper.lost(error)
    except ShuttingDown as closed:
        return closed
    if code is not None:
        logger.warning("the process that decoded a picture ended with %s", code)
    return Unavailable(f"{source.name}: the process that decoded it ended ({code})", param=source.field)


def _receive_picture(helper: Helper, width: int, height: int) -> Image.Image:
    """Reads strip by strip. A strip holds Python's lock for a millisecond; a whole picture would hold it for many."""
    image = Image.new("RGB", (width, height), None)
    rows = max(1, _STRIP_BYTES // (BYTES_PER_PIXEL * width))
    strip = memoryview(bytearray(BYTES_PER_PIXEL * width * rows))
    for top in range(0, height, rows):
        count = min(rows, height - top)
        view = strip[: BYTES_PER_PIXEL * width * count]
        helper.channel.receive_into(view)
        image.paste(Image.frombytes("RGB", (width, count), bytes(view)), (0, top))
    return image
