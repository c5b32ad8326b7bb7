"""What pictures look like once decoded: ink on paper in every mode, format and depth, upright, or refused by name."""

from __future__ import annotations

import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo

from headmap.datasets.page_folder import PageFolder
from headmap.errors import ImageTooLarge, InvalidImage
from headmap.pictures.decode import FORMATS, decode_picture
from headmap.sandbox import Channel
from headmap.settings import Settings
from services.cli.commands.generate import _read
from services.inference.intake.image_process import Decoder
from services.inference.intake.images import Limits
from tests.shared.pictures import files
from tests.shared.pictures.files import LONG, SHORT, saved

SIZE = 48, 32
MAX_PIXELS = 250_000
ORIENTATION = 0x0112


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = decode_picture(data, "images.0", max_pixels=max_pixels, param="images.0")
    assert image.mode == "RGB"
    return image


def ink() -> Image.Image:
    """Black ink on white paper: the left half but for a margin."""
    page = Image.new("L", SIZE, 255)
    page.paste(0, (8, 8, 24, 24))
    return page


def looks_like_ink(image: Image.Image) -> bool:
    pixels = np.asarray(image).astype(int)
    wanted = np.asarray(ink())[..., None]
    # JPEG blurs the edges
    return image.size == SIZE and bool(np.percentile(abs(pixels - wanted), 95) < 40)


def lab(page: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return page.convert("RGB").point(ImageCms.buildTransform(*profiles, "RGB", "LAB"))


def of_mode(mode: str) -> Image.Image:
    page = ink()
    if mode == "LAB":
        return lab(page)
    if mode.startswith("I;16"):
        wide = Image.new(mode, SIZE, 65535)
        wide.paste(0, (8, 8, 24, 24))
        return wide
    if mode in ("I", "F"):
        return page.convert("I").point(lambda value: value * 257).convert(mode)
    return page.convert(mode)


OPAQUE = [
    *(("PNG", mode) for mode in ("1", "L", "P", "RGB", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")),
    *(("WEBP", mode) for mode in ("L", "RGB")),
    *(("GIF", mode) for mode in ("1", "L", "P", "RGB")),
    *(("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("TIFF", mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F")),
]


@pytest.mark.parametrize(("form", "mode"), OPAQUE)
def test_black_ink_on_white_paper_looks_like_it(form: str, mode: str) -> None:
    assert looks_like_ink(decode(saved(of_mode(mode), form)))


COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "group3", "group4")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressions_of_scanners_are_read(compression: str) -> None:
    mode = "1" if compression.startswith("group") else "RGB"
    assert looks_like_ink(decode(saved(of_mode(mode), "TIFF", compression=compression)))


def clear_paper(mode: str) -> Image.Image:
    """The same ink on paper that is as black, and clear."""
    opaque = ink().point(lambda value: 255 - value)
    black = Image.new("L", SIZE, 0)
    if mode == "PA":
        paletted = black.convert("PA")
        paletted.putalpha(opaque)
        return paletted
    return Image.merge(mode, (*[black] * (len(mode) - 1), opaque))


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
        ("GIF", "RGBA", {}),
        ("TIFF", "LA", {}),
        ("TIFF", "PA", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ],
)
def test_black_ink_on_clear_paper_looks_like_ink_on_white(form: str, mode: str, options: dict[str, Any]) -> None:
    assert looks_like_ink(decode(saved(clear_paper(mode), form, **options)))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_premultiplied_transparency_too(mode: str) -> None:
    """A TIFF whose ExtraSamples say so (TIFF 6.0, section 18)."""
    data = saved(clear_paper(mode), "TIFF")
    entry = struct.pack("<HHIH", 338, SHORT, 1, 2)
    assert entry in data
    assert looks_like_ink(decode(data.replace(entry, struct.pack("<HHIH", 338, SHORT, 1, 1))))


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
def test_half_transparent_ink_is_grey(alpha: int) -> None:
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, alpha))
    assert abs(decode(saved(picture, "PNG")).getpixel((1, 1))[0] - (255 - alpha)) <= 1  # type: ignore[index]


@pytest.mark.parametrize("table", [0, bytes([0, 255])], ids=["index", "table"])
def test_a_palette_may_have_clear_colours(table: int | bytes) -> None:
    page = ink().point(lambda value: int(value == 0)).convert("P")
    page.putpalette([0, 0, 0] * 256)
    assert looks_like_ink(decode(saved(page, "PNG", transparency=table)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colour", [files.GREY, files.COLOUR])
def test_a_clear_colour_counts_in_the_depth_of_its_file(depth: int, colour: int) -> None:
    if colour == files.COLOUR and depth < 8:
        return  # PNG has no such pictures
    # The ink is the darkest value, the paper the next one, which looks as black where there are many.
    clear = 1 if depth < 16 else 0x0100
    samples = 3 if colour == files.COLOUR else 1
    shown = ink()
    rows = [
        [0 if shown.getpixel((x, y)) == 0 else clear for x in range(SIZE[0]) for _ in range(samples)]
        for y in range(SIZE[1])
    ]
    data = files.png(rows, depth, colour=colour, clear=[clear] * samples)
    assert looks_like_ink(decode(data))


# ---- depth


def ramp_of(data: bytes) -> npt.NDArray[np.int64]:
    pixels = np.asarray(decode(data)).astype(np.int64)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0]


def wide_ramp(mode: str, top: float, count: int = 256) -> Image.Image:
    values = np.linspace(0, top, count)
    if mode == "F":
        return Image.fromarray(values[None].astype(np.float32))
    if mode == "I":
        return Image.fromarray(values[None].astype(np.int32))
    image = Image.fromarray(values[None].astype(np.uint16))
    return image if mode == "I;16" else Image.frombytes("I;16B", image.size, values.astype(">u2").tobytes())


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


# ---- upright


def marked() -> Image.Image:
    """A picture whose corners differ."""
    image = Image.new("RGB", SIZE, "white")
    image.paste((255, 0, 0), (0, 0, 16, 16))
    image.paste((0, 0, 255), (32, 0, 48, 16))
    image.paste((0, 255, 0), (0, 16, 16, 32))
    return image


# How a picture is stored so that its orientation turns it upright (EXIF 2.32, section 4.6.4)
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(form: str, orientation: int) -> bytes:
    """The marked picture, stored so that its orientation turns it upright."""
    stored = marked().transpose(STORED[orientation]) if orientation in STORED else marked()
    options: dict[str, object] = {"quality": 95, "subsampling": 0} if form == "JPEG" else {"lossless": True}
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    return saved(stored, form, exif=tag, **options)


def near(one: Image.Image, other: Image.Image) -> bool:
    if one.size != other.size:
        return False
    return bool(abs(np.asarray(one).astype(int) - np.asarray(other)).mean() < 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_callers_see_the_same_upright_picture(form: str, orientation: int, tmp_path: Path) -> None:
    data = turned(form, orientation)
    upright = decode(data)
    assert near(upright, marked())
    # serving
    server, helper = socket.socketpair()
    with server, helper:
        decoder, told, answers = Decoder(Limits(10**6, 10**6)), Channel(server), Channel(helper)
        decoder.answer(answers, {"field": "images.0", "number": None, "inline": False}, bytearray(data))
        told.receive()
        decoder.answer(answers, {}, bytearray())
        assert told.receive() == ({"width": upright.width, "height": upright.height}, upright.tobytes())
    # a data set
    (tmp_path / "0000.png").write_bytes(data)
    record = '{"file": "0000.png", "width": 48, "height": 32, "words": [], "questions": []}'
    (tmp_path / "pages.jsonl").write_text(record, encoding="utf-8")
    assert PageFolder(tmp_path).page(0).image.tobytes() == upright.tobytes()
    # the command line
    assert _read([tmp_path / "0000.png"], Settings())[0].tobytes() == upright.tobytes()


TURN = (ORIENTATION, SHORT, 1, 6)


@pytest.mark.parametrize(
    "exif",
    [
        files.exif(TURN),
        files.exif(TURN, order=">"),
        files.exif((ORIENTATION, LONG, 1, 6)),
        files.exif((0x010F, 2, 20, 2**31), TURN),  # the maker's name lies outside
        files.exif((0x010F, 99, 1, 0), TURN, (0x0132, 2, 20, 2**31)),  # a type that is none
        files.exif(TURN, (0x011A, 5, 1, 2**31), (0x8769, LONG, 1, 2**31), (0x8825, LONG, 1, 7)),
        files.exif(TURN, (0x8769, LONG, 1, 26)) + files.exif((0x927C, 7, 2**31, 2**31))[14:],  # the maker's note
        files.exif(TURN)[:-4],
    ],
)
def test_exif_that_is_broken_elsewhere_still_turns(exif: bytes) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        assert decode(saved(Image.new("RGB", SIZE), form, exif=exif)).size == SIZE[::-1], form


@pytest.mark.parametrize(
    "exif",
    [
        files.exif((ORIENTATION, SHORT, 1, 0)),
        files.exif((ORIENTATION, SHORT, 1, 9)),
        files.exif((ORIENTATION, SHORT, 1, 65535)),
        files.exif((ORIENTATION, 2, 2, 6)),
        files.exif((ORIENTATION, 5, 1, 2**31)),
        files.exif((ORIENTATION, 99, 1, 6)),
        files.exif(TURN, start=2**31),
        files.exif(TURN)[:18],
        b"Exif\0\0" + b"XX" + bytes(40),
        b"Exif\0\0",
        b"Exif\0\0II*\0" + b"\xff" * 50,
    ],
)
def test_a_broken_orientation_leaves_the_picture_as_it_lies(exif: bytes) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        assert decode(saved(Image.new("RGB", SIZE), form, exif=exif)).size == SIZE, form


def test_xmp_turns_a_picture_that_has_no_exif() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(saved(Image.new("RGB", SIZE), "WEBP", xmp=xmp)).size == SIZE[::-1]


# ---- frames


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


# ---- refusals


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
