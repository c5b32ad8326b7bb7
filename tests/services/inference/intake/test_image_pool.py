"""The processes that decode pictures: what they answer, and that their end harms one request only."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headmap.errors import BodiesTooLarge, ImageTooLarge, InvalidImage, ShuttingDown, Unavailable
from headmap.http.receiving import RequestBytes, SharedBytes
from headmap.settings import Settings
from services.inference.intake import helper, image_process
from services.inference.intake.image_pool import ImagePool, Source
from services.inference.intake.images import EncodedImage, ImageSource
from tests.services.inference.conftest import base64_of, png

SETTINGS = Settings(max_image_bytes=2_000_000, max_image_pixels=1_000_000, prepare_workers=1)


@pytest.fixture
def pool() -> Iterator[ImagePool]:
    pool = ImagePool(SETTINGS)
    yield pool
    pool.close()


def held(most: int = 2**24, caller: str = "key a") -> RequestBytes:
    """For one request, of so many bytes."""
    return RequestBytes(SharedBytes(2 * most), caller)


async def decoded(pool: ImagePool, *sources: Source, held: RequestBytes | None = None) -> list[Image.Image]:
    async with pool.decoded(sources, held or RequestBytes(SharedBytes(2**25), "key a")) as images:
        return images


def decode(pool: ImagePool, source: Source) -> Image.Image:
    (image,) = asyncio.run(decoded(pool, source))
    return image


def pids(pool: ImagePool) -> list[int]:
    return [one.pid for one in pool.pool.helpers if one.pid is not None]


def pid(pool: ImagePool) -> int:
    """Of the process that decodes for one caller: the one that was used last is lent first."""
    (found,) = pids(pool)
    return found


def gone(process: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True


async def until_gone(process: int) -> None:
    async with asyncio.timeout(20):
        while not gone(process):
            await asyncio.sleep(0.01)


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
            found = decode(pool, source)
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
    pool: ImagePool, source: Source, error: type[Exception]
) -> None:
    decode(pool, encoded(png()))
    before = pid(pool)
    with pytest.raises(error, match=r"^images\.0: ") as caught:
        decode(pool, source)
    assert getattr(caught.value, "param", None) == "images.0"
    assert decode(pool, encoded(png())).size == (8, 8)
    assert pid(pool) == before


def test_a_broken_picture_leaves_nothing_in_the_log(pool: ImagePool, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff tells what is wrong on standard error, if it is let."""
    file = BytesIO()
    Image.effect_noise((40, 40), 80).save(file, "TIFF", compression="tiff_lzw")
    data = file.getvalue()
    with pytest.raises(InvalidImage):
        decode(pool, encoded(data[:8] + bytes(400) + data[408:]))
    assert capfd.readouterr().err == ""


async def test_a_process_that_dies_is_replaced_and_its_request_told(pool: ImagePool) -> None:
    await decoded(pool, encoded(png()))
    process = pid(pool)
    os.kill(process, signal.SIGSTOP)
    asking = asyncio.create_task(decoded(pool, encoded(png())))
    await asyncio.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(Unavailable, match=r"images\.0: the process that decoded it ended \(-9\)"):
        await asking
    assert (await decoded(pool, encoded(png())))[0].size == (8, 8)


async def test_pictures_that_take_too_long_are_given_up() -> None:
    """All of one request together, and the process with them."""
    pool = ImagePool(SETTINGS)
    try:
        await decoded(pool, encoded(png()))
        pool._seconds = 0.3
        stuck = pid(pool)
        os.kill(stuck, signal.SIGSTOP)
        with pytest.raises(InvalidImage, match=r"images\.0: not decoded within 0\.3 seconds, the time of all pictures"):
            await decoded(pool, *[encoded(png())] * 16)
        await until_gone(stuck)
        pool._seconds = 30
        assert (await decoded(pool, encoded(png())))[0].size == (8, 8)
    finally:
        pool.close()


async def test_a_request_that_is_left_ends_the_process_at_work(pool: ImagePool) -> None:
    await decoded(pool, encoded(png()))
    stuck = pid(pool)
    os.kill(stuck, signal.SIGSTOP)
    asking = asyncio.create_task(decoded(pool, encoded(png())))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until_gone(stuck)
    assert (await decoded(pool, encoded(png())))[0].size == (8, 8)
    assert stuck not in pids(pool)


async def test_one_left_that_ends_by_itself_costs_no_process(pool: ImagePool) -> None:
    await decoded(pool, encoded(png()))
    before = pid(pool)
    for _ in range(5):
        asking = asyncio.create_task(decoded(pool, encoded(png())))
        await asyncio.sleep(0.002)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await decoded(pool, encoded(png()), held=held(caller="key b"))
    assert not gone(before)


async def test_one_caller_leaves_a_process_to_others(pool: ImagePool) -> None:
    """However many requests it has, and however long its pictures take."""
    await decoded(pool, encoded(png()))
    os.kill(pid(pool), signal.SIGSTOP)
    hostile = [asyncio.create_task(decoded(pool, encoded(png()))) for _ in range(8)]
    await asyncio.sleep(0.05)
    try:
        assert (await decoded(pool, encoded(png()), held=held(caller="key b")))[0].size == (8, 8)
        assert not any(task.done() for task in hostile)
    finally:
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)


async def test_a_picture_is_counted_before_it_is_decoded(pool: ImagePool) -> None:
    """A file of some hundred bytes; the process lets go of it and goes on."""
    shared = SharedBytes(2_000_000)
    large, mine = encoded(png(1000, 1000)), RequestBytes(shared, "key a")
    await decoded(pool, encoded(png()))
    before = pid(pool)
    with pytest.raises(BodiesTooLarge, match=r"^images\.0: ") as caught:
        await decoded(pool, large, held=mine)
    assert caught.value.param == "images.0"
    mine.give_back()
    assert (await decoded(pool, encoded(png(500, 500)), held=mine))[0].size == (500, 500)
    assert pid(pool) == before
    with pytest.raises(BodiesTooLarge):
        RequestBytes(shared, "key a").take(400_000)


def test_memory_is_bounded(pool: ImagePool) -> None:
    decode(pool, encoded(png()))
    soft, hard = resource.prlimit(pid(pool), resource.RLIMIT_AS)
    assert soft == hard < 2**30
    taken = int(Path(f"/proc/{pid(pool)}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid(pool), resource.RLIMIT_AS, (taken + 2**20, hard))
    with pytest.raises(ImageTooLarge, match=r"images\.0: decoding it takes more memory than is allowed"):
        decode(pool, encoded(png(1000, 1000)))
    assert decode(pool, encoded(png())).size == (8, 8)


def test_a_process_is_replaced_after_so_many_pictures(pool: ImagePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "TASKS_PER_PROCESS", 2)
    seen = []
    for _ in range(5):
        decode(pool, encoded(png()))
        seen.append(pid(pool))
    assert [seen.index(one) for one in seen] == [0, 0, 2, 2, 4]


def test_signals_to_the_whole_group_do_not_end_it_and_closing_does(pool: ImagePool) -> None:
    decode(pool, encoded(png()))
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid(pool), number)
    before = pid(pool)
    assert decode(pool, encoded(png())).size == (8, 8)
    assert pid(pool) == before
    pool.pool.helpers[-1].close()
    assert gone(before)
    with pytest.raises(ShuttingDown):
        decode(pool, encoded(png()))


def test_its_processes_know_no_model_and_no_secret(pool: ImagePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", '["secret"]')
    decode(pool, encoded(png()))
    assert b"HEADMAP" not in Path(f"/proc/{pid(pool)}/environ").read_bytes()
    code = f"import sys, {image_process.__name__}; print({{'torch', 'numpy', 'pydantic'}} & set(sys.modules) or [])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
