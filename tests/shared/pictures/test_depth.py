"""Pictures of any depth span black to white once decoded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from headmap.errors import InvalidImage
from tests.shared.pictures import files
from tests.shared.pictures.drawn import decode, wide_ramp
from tests.shared.pictures.files import saved


def ramp_of(data: bytes) -> npt.NDArray[np.int64]:
    pixels = np.asarray(decode(data)).astype(np.int64)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0]


@pytest.mark.parametrize(
    ("form", "mode", "top"),
    [
        ("PNG", "I;16", 65535),
        ("TIFF", "I;16", 65535),
        ("TIFF", "I;16B", 65535),
        ("TIFF", "I", 255),
        ("TIFF", "I", 65535),
        ("TIFF", "I", 2**31 - 1),
        ("TIFF", "F", 1.0),
        ("TIFF", "F", 255.0),
        ("TIFF", "F", 65535.0),
        ("TIFF", "F", 1e9),
    ],
)
def test_a_ramp_of_any_depth_stays_a_ramp(form: str, mode: str, top: float) -> None:
    found = ramp_of(saved(wide_ramp(mode, top), form))
    assert abs(found - np.arange(256)).max() <= 1
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (0, 255)


def test_a_dark_picture_of_16_bits_stays_dark() -> None:
    assert ramp_of(saved(wide_ramp("I;16", 255), "PNG")).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_png_of_any_depth_spans_black_to_white(depth: int) -> None:
    found = ramp_of(files.png([range(0, 2**depth, max(1, 2**depth // 256))], depth))
    assert (found[0], found[-1] >= 254) == (0, True)


def test_12_bits_span_black_to_white() -> None:
    row = [0, 2048, 4095, 0]
    data = files.tiff({256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1}, files.packed(row, 12))
    assert list(ramp_of(data)) == [0, 128, 255, 0]


@pytest.mark.parametrize("image", [wide_ramp("I;16", 65535), wide_ramp("F", 1.0)], ids=["I;16", "F"])
def test_where_white_is_zero_the_ramp_falls(image: Image.Image) -> None:
    deep = image.mode == "F"
    strip = image.tobytes()
    tags = {256: 256, 257: 1, 258: 32 if deep else 16, 259: 1, 262: 0, 277: 1, 278: 1, 339: 3 if deep else 1}
    assert abs(ramp_of(files.tiff(tags, strip)) - np.arange(255, -1, -1)).max() <= 1


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidImage, match="finite"):
        decode(saved(Image.new("F", (3, 3), float("nan")), "TIFF"))
