"""Pictures are decoded upright, the same for all who read them."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headmap.datasets.page_folder import PageFolder
from headmap.sandbox import Channel
from headmap.settings import Settings
from services.cli.commands.generate import _read
from services.inference.intake.image_process import Decoder
from services.inference.intake.images import Limits
from tests.shared.pictures import files
from tests.shared.pictures.drawn import ORIENTATION, SIZE, decode, marked, turned
from tests.shared.pictures.files import LONG, SHORT, saved


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
