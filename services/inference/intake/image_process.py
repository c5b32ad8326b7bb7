"""The process that decodes pictures. `image_pool` asks it.

Only this process looks at what clients sent as pictures. It knows no model, no key and no registry, its memory is
limited, and it ends when the server closes its end.

A picture's file comes in; its size goes out; the server says whether to go on; its pixels go out. In place of a size or
of pixels there may be a refusal, which ends it.
"""

from __future__ import annotations

import socket
import sys
from functools import partial

from headmap.errors import HeadmapError, ImageTooLarge
from headmap.pictures.decode import TOO_MUCH_MEMORY, open_picture
from services.inference.intake.images import EncodedImage, ImageSource, Limits, name_of, read_inline
from services.inference.intake.messages import Head, receive_head, send, serve

_BASE_BYTES = 2**29
_BYTES_PER_PIXEL = 24  # copies of a picture, 4 bytes a pixel: decoded, turned, converted, and its pixels being sent


def main(arguments: list[str]) -> None:
    limits = Limits(*map(int, arguments))
    most = _BASE_BYTES + _BYTES_PER_PIXEL * limits.max_image_pixels + 4 * limits.max_image_bytes
    serve(partial(_answer, limits=limits), most)


def _answer(server: socket.socket, head: Head, body: bytearray, limits: Limits) -> None:
    place = head["field"], head["number"]
    try:
        if head["inline"]:
            encoded = read_inline(ImageSource(body.decode(), *place), limits)
        else:
            encoded = EncodedImage(bytes(body), *place)
        picture = open_picture(encoded.data, encoded.name, max_pixels=limits.max_image_pixels)
        width, height = picture.size
        send(server, {"width": width, "height": height})
        if receive_head(server)[0]["wanted"]:
            image = picture.decode()
            send(server, {"width": image.width, "height": image.height}, image.tobytes())
    except HeadmapError as error:
        send(server, {"code": error.code, "detail": error.detail})
    except MemoryError:
        send(server, {"code": ImageTooLarge.code, "detail": f"{name_of(*place)}: {TOO_MUCH_MEMORY}"})


if __name__ == "__main__":
    main(sys.argv[1:])
