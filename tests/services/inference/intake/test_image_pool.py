"""The processes that decode pictures: what they answer, and that their end harms one request only."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headmap.errors import ImageTooLarge, InvalidImage, ShuttingDown, Unavailable
from headmap.settings import Settings
from services.inference.intake import image_pool, image_process
from services.inference.intake.image_pool import ImagePool
from services.inference.intake.images import EncodedImage, ImageSource
from tests.services.inference.conftest import base64_of, png, wait_for

SETTINGS = Settings(max_image_bytes=2_000_000, max_image_pixels=1_000_000, prepare_workers=1)


@pytest.fixture
def pool() -> Iterator[ImagePool]:
    pool = ImagePool(SETTINGS)
    yield pool
    pool.close()


def pid(pool: ImagePool) -> int:
    running = pool._all[0]._running
    assert running is not None
    return running[0].pid


def encoded(data: bytes) -> EncodedImage:
    return EncodedImage(data, "images.0")


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (900, 1000), (1000, 3), (1, 5000)])
def test_pixels_arrive_as_they_are(pool: ImagePool, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    data = file.getvalue()[: SETTINGS.max_image_bytes]
    for source in (encoded(data), ImageSource(f"data:image/png;base64,{base64_of(data)}", "images.0")):
        if len(data) == len(file.getvalue()):
            found = pool.decode(source)
            assert (found.mode, np.array_equal(np.asarray(found), pixels)) == ("RGB", True)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (encoded(b"no picture"), InvalidImage),
        (encoded(png(2000, 2000)), ImageTooLarge),
        (encoded(png()[:40]), InvalidImage),
        (ImageSource("/etc/passwd", "images.0"), InvalidImage),
        (ImageSource("\ud800Ä", "images.0"), InvalidImage),
        (ImageSource("A" * 4_000_000, "images.0"), ImageTooLarge),
        (ImageSource("", "images.0"), InvalidImage),
    ],
)
def test_refusals_name_the_field_and_the_process_goes_on(
    pool: ImagePool, source: ImageSource | EncodedImage, error: type[Exception]
) -> None:
    pool.decode(encoded(png()))
    before = pid(pool)
    with pytest.raises(error, match=r"^images\.0: ") as caught:
        pool.decode(source)
    assert getattr(caught.value, "param", None) == "images.0"
    assert pool.decode(encoded(png())).size == (8, 8)
    assert pid(pool) == before


def test_a_broken_picture_leaves_nothing_in_the_log(pool: ImagePool, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff tells what is wrong on standard error, if it is let."""
    file = BytesIO()
    Image.effect_noise((40, 40), 80).save(file, "TIFF", compression="tiff_lzw")
    data = file.getvalue()
    with pytest.raises(InvalidImage):
        pool.decode(encoded(data[:8] + bytes(400) + data[408:]))
    assert capfd.readouterr().err == ""


def test_a_process_that_dies_is_replaced_and_its_request_told(pool: ImagePool) -> None:
    pool.decode(encoded(png()))
    os.kill(pid(pool), signal.SIGSTOP)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            pool.decode(encoded(png()))
        except Unavailable as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    os.kill(pid(pool), signal.SIGKILL)
    asking.join(30)
    assert "images.0: the process that decoded it ended" in str(failed[0])
    assert pool.decode(encoded(png())).size == (8, 8)


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    pool = ImagePool(SETTINGS.model_copy(update={"image_decode_seconds": 1.0}))
    try:
        wait_for(lambda: _decodes(pool), seconds=30)
        stuck = pid(pool)
        os.kill(stuck, signal.SIGSTOP)
        with pytest.raises(InvalidImage, match=r"images\.0: not decoded within 1 seconds"):
            pool.decode(encoded(png()))
        wait_for(lambda: _decodes(pool), seconds=30)
        assert pid(pool) != stuck
    finally:
        pool.close()


def _decodes(pool: ImagePool) -> bool:
    """On a busy machine a process may need longer than a second to start."""
    try:
        return pool.decode(encoded(png())).size == (8, 8)
    except InvalidImage:
        return False


def test_memory_is_bounded(pool: ImagePool) -> None:
    pool.decode(encoded(png()))
    soft, hard = resource.prlimit(pid(pool), resource.RLIMIT_AS)
    assert soft == hard < 2**30
    held = int(Path(f"/proc/{pid(pool)}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid(pool), resource.RLIMIT_AS, (held + 2**20, hard))
    with pytest.raises(ImageTooLarge, match=r"images\.0: decoding it takes more memory than is allowed"):
        pool.decode(encoded(png(1000, 1000)))
    assert pool.decode(encoded(png())).size == (8, 8)


def test_a_process_is_replaced_after_so_many_pictures(pool: ImagePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pool, "PICTURES_PER_PROCESS", 2)
    seen = []
    for _ in range(5):
        pool.decode(encoded(png()))
        seen.append(pid(pool))
    assert [seen.index(one) for one in seen] == [0, 0, 2, 2, 4]


def test_signals_to_the_whole_group_do_not_end_it_and_closing_does(pool: ImagePool) -> None:
    pool.decode(encoded(png()))
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid(pool), number)
    before = pid(pool)
    assert pool.decode(encoded(png())).size == (8, 8)
    assert pid(pool) == before
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    with pytest.raises(ShuttingDown):
        pool.decode(encoded(png()))


def test_its_processes_know_no_model_and_no_secret(pool: ImagePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", '["secret"]')
    pool.decode(encoded(png()))
    assert b"HEADMAP" not in Path(f"/proc/{pid(pool)}/environ").read_bytes()
    code = f"import sys, {image_process.__name__}; print({{'torch', 'numpy', 'pydantic'}} & set(sys.modules) or [])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
