"""The process that decodes pictures. `image_pool` asks it.

Only this process looks at what clients sent as pictures. It knows no model, no key and no registry, its memory is
limited, and it ends when the server closes its end.

A picture's file comes in, and its size goes out; where the server still wants it, its pixels go out. In place of either
there may be a refusal.
"""

from __future__ import annotations

import sys

from headmap.errors import HeadmapError, ImageTooLarge
from headmap.pictures.decode import TOO_MUCH_MEMORY, OpenedPicture, open_picture
from headmap.sandbox import Channel, Head, serve
from services.inference.intake.images import EncodedImage, ImageSource, Limits, name_of, read_inline

_BASE_BYTES = 2**29
_BYTES_PER_PIXEL = 24  # copies of a picture, 4 bytes a pixel: decoded, turned, converted, and its pixels being sent


def main(arguments: list[str]) -> None:
    limits = Limits(*map(int, arguments))
    most = _BASE_BYTES + _BYTES_PER_PIXEL * limits.max_image_pixels + 4 * limits.max_image_bytes
    serve(Decoder(limits).answer, memory_bytes=most)


class Decoder:
    """Answers a file's message with the size of its picture, and one without a file with the pixels of the last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._opened: OpenedPicture | None = None
        self._name = ""

    def answer(self, server: Channel, head: Head, body: bytearray) -> None:
        try:
            if "field" in head:
                self._opened = self._open(head, body)
                width, height = self._opened.size
                server.send({"width": width, "height": height})
            elif self._opened is not None:
                opened, self._opened = self._opened, None
                image = opened.decode()
                server.send({"width": image.width, "height": image.height}, image.tobytes())
        except HeadmapError as error:
            server.send({"code": error.code, "detail": error.detail})
        except MemoryError:
            server.send({"code": ImageTooLarge.code, "detail": f"{self._name}: {TOO_MUCH_MEMORY}"})

    def _open(self, head: Head, body: bytearray) -> OpenedPicture:
        self._opened = None
        place = head["field"], head["number"]
        self._name = name_of(*place)
        if head["inline"]:
            text = body.decode()
            body.clear()
            encoded = read_inline(ImageSource(text, *place), self._limits)
        else:
            encoded = EncodedImage(bytes(body), *place)
        return open_picture(encoded.data, self._name, max_pixels=self._limits.max_image_pixels)


if __name__ == "__main__":
    main(sys.argv[1:])
