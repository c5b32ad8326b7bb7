from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from headmap.errors import ImageTooLarge, InvalidImage
from services.inference.intake.images import EncodedImage, ImageSource, Limits, decode_image, read_inline
from tests.services.inference.conftest import base64_of

LIMITS = Limits(max_image_bytes=100_000, max_image_pixels=250_000)


def decode(data: bytes) -> Image.Image:
    return decode_image(EncodedImage(data, "images.0"), LIMITS)


def read(text: str) -> bytes:
    return read_inline(ImageSource(text, "images.0"), LIMITS).data


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# ---- sources


@pytest.mark.parametrize(
    "start", ["", "data:image/png;base64,", "DATA:;BASE64,", "data:image/png;charset=x;name=a.png;base64,"]
)
def test_base64_and_data_urls_are_read(start: str) -> None:
    assert read(start + base64_of(b"picture")) == b"picture"


def test_line_breaks_and_percent_signs_are_read() -> None:
    text = base64_of(bytes(range(200)))
    assert read("\n".join(text[i : i + 64] for i in range(0, len(text), 64))) == bytes(range(200))
    assert read("data:image/png;base64," + text.replace("+", "%2B")) == bytes(range(200))


@pytest.mark.parametrize("size", [*range(8), 3 * 2**18 - 1, 3 * 2**18, 3 * 2**18 + 1, 2**21 + 2])
def test_base64_is_read_the_same_however_it_is_cut(size: int) -> None:
    large = Limits(2**22, 1)
    data = bytes(number * 7 % 251 for number in range(size))
    text = base64_of(data)
    for spaced in (text, text + "\n", "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n"):
        if size:
            assert read_inline(ImageSource(spaced, "images.0"), large).data == data


@pytest.mark.parametrize("head", ["QQ==", "QUI=", "A" * (2**20 - 4) + "QQ==", "A" * (2**20 - 2) + "=="])
def test_nothing_may_follow_the_padding(head: str) -> None:
    with pytest.raises(InvalidImage, match="not base64"):
        read_inline(ImageSource(head + "QUJD", "images.0"), Limits(2**22, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:,hello",
        "data:image/png,raw",
        "/etc/passwd",
        "../secret.png",
        "C:\\secret.png",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "javascript:alert(1)",
        "abc$",
        "YQ=",
        "\ud800",
        "ÄÖÜ=",
    ],
)
def test_anything_else_is_an_invalid_image_that_names_its_field(text: str) -> None:
    with pytest.raises(InvalidImage, match=r"^images\.0: "):
        read(text)


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ImageTooLarge):
        read("A" * 200_000)
    with pytest.raises(ImageTooLarge):
        read(base64_of(bytes(LIMITS.max_image_bytes + 1)))
    assert len(read(base64_of(bytes(LIMITS.max_image_bytes)))) == LIMITS.max_image_bytes
