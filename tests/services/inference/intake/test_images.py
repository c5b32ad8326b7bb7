"""The spellings in which clients send pictures, and how errors call them."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from headmap.errors import ImageTooLarge, InvalidImage
from services.inference.intake.images import ImageSource, Limits, read_inline
from tests.services.inference.conftest import base64_of

LIMITS = Limits(max_image_bytes=100_000, max_image_pixels=250_000)
# every byte: the base64 of it has each of `+/-_=`
DATA = bytes(range(256))


def read(text: str) -> bytes:
    return read_inline(ImageSource(text, "images.0"), LIMITS).data


@pytest.mark.parametrize(
    "start",
    [
        "",
        "data:image/png;base64,",
        "DATA:IMAGE/PNG;BASE64,",
        "data:;base64,",
        "data:base64,",
        "data:application/octet-stream;base64,",
        "data:image/jpg ; base64, ",
        "data:image/png;charset=x;name=a.png;base64,",
        "data:image/png;base64;charset=utf-8,",
        "\n data:text/plain;base64,",
    ],
)
def test_base64_and_data_urls_are_read(start: str) -> None:
    assert read(start + base64_of(DATA)) == DATA


def lines(text: str, end: str) -> str:
    return end.join(text[start : start + 64] for start in range(0, len(text), 64)) + end


@pytest.mark.parametrize(
    "written",
    [
        base64_of(DATA).rstrip("="),
        base64_of(DATA)[:-1],
        base64_of(DATA).translate(str.maketrans("+/", "-_")),
        base64_of(DATA).translate(str.maketrans("+/", "-_")).rstrip("="),
        lines(base64_of(DATA), "\n"),
        lines(base64_of(DATA), "\r\n"),
        lines(base64_of(DATA), "%0D%0A"),
        quote(base64_of(DATA), safe=""),
        base64_of(DATA).replace("+", "%2b"),
    ],
    ids=["no padding", "half the padding", "URL-safe", "URL-safe, bare", "\\n", "\\r\\n", "%0D%0A", "quoted", "%2b"],
)
def test_base64_is_read_however_it_is_written(written: str) -> None:
    assert written != base64_of(DATA)
    assert read(written) == read(f"data:image/png;base64,{written}") == DATA


@pytest.mark.parametrize("start", ["data:,", "data:image/png,", "data:image/svg+xml;charset=utf-8,"])
def test_a_data_url_may_hold_escaped_bytes(start: str) -> None:
    assert read(start + quote(DATA)) == DATA


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
        " ",
        "=",
        "data:,",
        "data:image/png;base64,",
        "data:image/png;base64",
        "../secret.png",
        "C:\\secret.png",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "javascript:alert(1)",
        "abc$",
        "YQ=YQ",
        "YWJjZ",
        "b'YQ=='",
        "\ud800",
        "ÄÖÜ=",
    ],
)
@pytest.mark.parametrize(("number", "name"), [(None, "images.0"), (3, r"picture 3 \(images.0\)")])
def test_anything_else_is_an_invalid_image_that_is_named(text: str, number: int | None, name: str) -> None:
    with pytest.raises(InvalidImage, match=f"^{name}: ") as caught:
        read_inline(ImageSource(text, "images.0", number), LIMITS)
    assert caught.value.param == "images.0"


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ImageTooLarge):
        read("A" * 200_000)
    with pytest.raises(ImageTooLarge):
        read(base64_of(bytes(LIMITS.max_image_bytes + 1)))
    with pytest.raises(ImageTooLarge):
        read("data:," + "a" * (LIMITS.max_image_bytes + 1))
    with pytest.raises(ImageTooLarge):
        read("data:," + "%00" * (LIMITS.max_image_bytes + 1))
    assert len(read("data:," + "%00" * LIMITS.max_image_bytes)) == LIMITS.max_image_bytes
    assert len(read(base64_of(bytes(LIMITS.max_image_bytes)))) == LIMITS.max_image_bytes
