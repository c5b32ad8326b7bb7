from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from headmap.errors import ImageTooLarge, InvalidImage
from services.inference.intake.images import EncodedImage, ImageSource, Limits, decode_image, read_inline
from tests.services.inference.conftest import base64_of, png

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


# ---- pictures


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_allowed_formats_become_rgb(form: str, mode: str) -> None:
    image = decode(saved(Image.new(mode, (30, 20)), form))
    assert (image.mode, image.size) == ("RGB", (30, 20))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1", "I;16"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert decode(png(9, 7, mode)).mode == "RGB"


def test_exif_orientation_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).size == (20, 30)


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO", "PDF"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(InvalidImage, match="is no PNG, JPEG, WEBP picture"):
        decode(saved(Image.new("RGB", (16, 16)), form))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_animations_are_refused(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    with pytest.raises(InvalidImage, match="animated"):
        decode(saved(frames[0], form, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_files_cut_short_are_refused(form: str) -> None:
    noise = Image.effect_noise((64, 64), 80)
    data = saved(noise, form)
    for end in (4, 20, len(data) // 2, 9 * len(data) // 10):
        with pytest.raises(InvalidImage):
            decode(data[:end])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_flipped_bytes_give_a_picture_or_an_invalid_image(form: str) -> None:
    data = saved(Image.effect_noise((48, 48), 80).convert("RGB"), form)
    for place in range(0, len(data), max(1, len(data) // 60)):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        try:
            assert decode(bytes(broken)).mode == "RGB"
        except (InvalidImage, ImageTooLarge):
            continue


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(501, 500), (40_000, 40_000), (2**31 - 1, 2**31 - 1), (10**6, 1)])
def test_bombs_are_refused_by_their_header(width: int, height: int) -> None:
    with pytest.raises(ImageTooLarge):
        decode(bomb(width, height))


def test_a_webp_bomb_is_refused() -> None:
    with pytest.raises(ImageTooLarge):
        decode(saved(Image.new("L", (600, 600)), "WEBP"))


def test_a_decompressing_text_chunk_is_refused() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("bomb", "0" * 80_000_000, zip=True)
    with pytest.raises(InvalidImage):
        decode(png(8, 8, pnginfo=info))
