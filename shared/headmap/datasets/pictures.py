"""A page's picture, decoded as for serving. Its faults are faults of the dataset."""

from __future__ import annotations

from PIL import Image

from headmap.errors import ImageTooLarge, InvalidDataset, InvalidImage
from headmap.pictures.decode import decode_picture

MAX_PIXELS = 40_000_000
"""Of one picture, where the caller sets no bound."""


def page_picture(
    data: bytes, where: str, *, max_pixels: int = MAX_PIXELS, size: tuple[int, int] | None = None
) -> Image.Image:
    """As decode_picture: RGB, upright, so that boxes count the pixels of the upright picture.

    `size`: the (width, height) it must have. Raises InvalidDataset, which begins with `where`, for other sizes and for
    all that decode_picture refuses.
    """
    try:
        picture = decode_picture(data, where, max_pixels=max_pixels)
    except (InvalidImage, ImageTooLarge) as error:
        raise InvalidDataset(error.detail) from error
    if size is not None and picture.size != size:
        raise InvalidDataset(
            f"{where}: fields 'width' and 'height' say {size}, but the upright picture has {picture.size}"
        )
    return picture
