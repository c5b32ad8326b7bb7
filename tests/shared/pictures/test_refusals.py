"""What is not one frame of a usual kind, whole and within bounds, is refused by name."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from headmap.errors import ImageTooLarge, InvalidImage
from headmap.pictures.decode import FORMATS
from tests.shared.pictures import files
from tests.shared.pictures.drawn import MAX_PIXELS, clear_paper, decode, ink, looks_like_ink, turned, wide_ramp
from tests.shared.pictures.files import saved


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_one_frame_is_read_and_several_are_refused(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "white")]
    assert decode(saved(frames[0], form, save_all=True)).size == (8, 8)
    with pytest.raises(InvalidImage, match=r"^images\.0: is animated or has several pages; one frame is needed"):
        decode(saved(frames[0], form, save_all=True, append_images=frames[1:]))


def test_a_cameras_mpo_is_its_first_picture() -> None:
    data = saved(ink(), "MPO", save_all=True, append_images=[Image.new("L", (9, 9))])
    assert looks_like_ink(decode(data))
    start = data.index(b"MPF\0")
    for broken in (b"\xff" * 20, bytes(20), b"II*\0" + b"\xff" * 16):
        assert looks_like_ink(decode(data[: start + 4] + broken + data[start + 24 :]))


@pytest.mark.parametrize("form", ["PPM", "ICO", "PDF", "JPEG2000", "AVIF", "TGA", "PCX"])
def test_other_formats_are_refused(form: str) -> None:
    said = f"is not a readable {', '.join(FORMATS)} picture; it begins with b'"
    with pytest.raises(InvalidImage, match=said) as caught:
        decode(saved(Image.new("RGB", (16, 16)), form))
    assert caught.value.param == "images.0"


@pytest.mark.parametrize("compression", ["lzma", "zstd", "webp"])
def test_rare_compressions_of_tiff_are_refused(compression: str) -> None:
    number = {"lzma": 34925, "zstd": 50000, "webp": 50001}[compression]
    data = files.tiff({256: 4, 257: 4, 258: 8, 259: number, 262: 1, 277: 1, 278: 4}, bytes(16))
    with pytest.raises(InvalidImage, match=f"compressed as '{compression}' is not read"):
        decode(data)


@pytest.mark.parametrize("form", FORMATS)
def test_files_cut_short_are_refused(form: str) -> None:
    data = saved(Image.effect_noise((64, 64), 80), form)
    for end in (4, 20, len(data) // 2, 9 * len(data) // 10):
        with pytest.raises(InvalidImage, match=r"^images\.0: "):
            decode(data[:end])


BOMBS = {
    "png": files.png([[0]], 8, width=501 * 500),
    "png, wide": files.png([[0]], 8, width=2**31 - 1),
    "webp": saved(Image.new("L", (600, 600)), "WEBP"),
    "bmp": b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "bmp, run-length": saved(Image.new("P", (8, 8)), "BMP")[:14]
    + struct.pack("<IiiHHIIiiII", 40, 2500, 2500, 1, 8, 1, 0, 0, 0, 256, 0)
    + bytes(range(256)) * 4
    + b"\1\5\0\0" * 2501,
    "gif": b"GIF89a\xff\xff\xff\xff" + saved(Image.new("L", (8, 8)), "GIF")[10:],
    "tiff": files.tiff({256: 2**31, 257: 2**31, 258: 1, 259: 4, 262: 1, 278: 2**31}, b"\0"),
    "tiff, tile": files.tiff(
        {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 322: 40_000, 323: 40_000}, zlib.compress(bytes(10**6))
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(name: str) -> None:
    with pytest.raises(ImageTooLarge, match=r"^images\.0: "):
        decode(BOMBS[name], MAX_PIXELS if "run" not in name else 10**7)


def test_a_decompressing_text_chunk_is_refused() -> None:
    info = PngInfo()
    info.add_text("bomb", "0" * 80_000_000, zip=True)
    with pytest.raises(InvalidImage):
        decode(saved(Image.new("L", (8, 8)), "PNG", pnginfo=info))


def test_directories_without_end_are_not_counted() -> None:
    """A TIFF of many pages, and a directory that follows itself: a page alone, without end."""
    page = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 277: 1, 278: 4}
    assert decode(files.tiff(page, bytes(16), following=8)).size == (4, 4)
    with pytest.raises(InvalidImage, match="several pages"):
        decode(files.tiff(page, bytes(16), following=150))


def test_no_memory_is_told_as_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    data = saved(Image.new("L", (8, 8)), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", none)
    with pytest.raises(ImageTooLarge, match="more memory than is allowed"):
        decode(data)


NOISE = {form: saved(Image.effect_noise((24, 20), 80).convert("RGB"), form) for form in FORMATS} | {
    "MPO": saved(ink(), "MPO", save_all=True, append_images=[ink()]),
    "TIFF, packed": saved(ink(), "TIFF", compression="tiff_lzw"),
    "TIFF, 16": saved(wide_ramp("I;16", 65535), "TIFF"),
    "PNG, clear": saved(clear_paper("LA"), "PNG"),
    "GIF, clear": saved(clear_paper("RGBA"), "GIF"),
    "JPEG, turned": turned("JPEG", 6),
}


@settings(max_examples=100, deadline=None, database=None)
@given(
    name=st.sampled_from(sorted(NOISE)),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5),
    end=st.none() | st.integers(0, 10_000),
)
def test_mutated_bytes_give_a_picture_or_are_refused(
    name: str, changes: list[tuple[int, bytes]], end: int | None
) -> None:
    data = bytearray(NOISE[name])
    for place, change in changes:
        place %= min(len(data), 400)
        data[place : place + len(change)] = change
    try:
        decode(bytes(data[:end]))
        return
    except (InvalidImage, ImageTooLarge) as error:
        refusal = error
    assert refusal.detail.startswith("images.0: ")
    assert refusal.param == "images.0"
