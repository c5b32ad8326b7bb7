"""Thousands of broken, mutated and made-up pictures: each is answered or refused by name, and no worker is lost."""

from __future__ import annotations

import base64
import io
import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

SEED = int(os.environ.get("HEADMAP_FUZZ_SEED", "1"))
MUTANTS = int(os.environ.get("HEADMAP_FUZZ_PICTURES", "3000"))
EXPECTED = {200, 413, 422}
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM")
MODES = ("RGB", "L", "P", "RGBA", "LA", "PA", "1", "CMYK", "YCbCr", "I;16", "I", "F")
# What a format is saved with; what it does not know it passes over.
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"compression": "tiff_lzw", "transparency": 0}, {"save_all": True})
HEADS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"\xff\xd8\xff\xe1\x00\x40Exif\x00\x00II*\x00",
    b"BM" + bytes(8) + b"\x36\x00\x00\x00\x28\x00\x00\x00",
    b"%PDF-",
)


@pytest.fixture(scope="module")
def http(url: str, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        yield client


def ask(http: httpx.Client, data: bytes) -> httpx.Response:
    picture = base64.b64encode(data).decode()
    body: dict[str, Any] = {"inputs": "What?", "images": [picture], "parameters": {"max_new_tokens": 1}}
    while (answer := http.post("/generate", json=body)).status_code == 429:
        pass
    return answer


def originals(chance: random.Random) -> list[bytes]:
    """Pictures of each format and mode, small and odd of size, some of them turned or of two frames."""
    found = []
    for form, mode, options in product(FORMATS, MODES, OPTIONS):
        size = chance.randint(1, 90), chance.randint(1, 90)
        pixels = Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1]))
        exif = Image.Exif()
        exif[0x0112] = chance.randint(0, 9)
        file = io.BytesIO()
        try:
            picture = pixels.convert("L").convert(mode) if mode in ("I;16", "I", "F") else pixels.convert(mode)
            frames = [picture.rotate(90)] if "save_all" in options else []
            picture.save(file, form, exif=exif, append_images=frames, **options)
        except (OSError, ValueError, KeyError, TypeError, SystemError):
            continue
        found.append(file.getvalue())
    return found


def mutant(chance: random.Random, pool: list[bytes]) -> bytes:
    """One picture with one to five things done to it."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 5)):
        place = chance.randrange(len(data)) if data else 0
        how = chance.randrange(7)
        if how == 0:
            data[place : place + 1] = bytes([chance.randrange(256)])
        elif how == 1:
            data = data[:place]
        elif how == 2:
            data[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
        elif how == 3:
            data[place:place] = chance.randbytes(chance.randint(1, 300))
        elif how == 4:
            other = chance.choice(pool)
            data[place:] = other[chance.randrange(len(other)) :]
        elif how == 5:
            data[:0] = chance.choice(HEADS)
        else:
            # the header's numbers: sizes, depths, chunk lengths
            data[min(len(data), chance.randint(8, 40)) :][:1] = chance.randbytes(1)
            if len(data) > 24:
                data[chance.randint(16, 23)] = chance.randrange(256)
    return bytes(data)


def test_mutated_pictures_are_answered_or_refused(http: httpx.Client) -> None:
    chance = random.Random(SEED)
    pool = originals(chance)
    pictures = [mutant(chance, pool) for _ in range(MUTANTS)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda data: ask(http, data), pictures))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) <= EXPECTED, [answer.text for answer in answers if answer.status_code not in EXPECTED][:5]
    assert counts[422] > MUTANTS / 10
    refusals = [answer.json() for answer in answers if answer.status_code != 200]
    assert all(one["detail"].startswith("images.0: ") or one["code"] == "invalid_image" for one in refusals)


@seed(SEED)
@settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=2000))
def test_made_up_bytes_are_refused(http: httpx.Client, head: bytes, rest: bytes) -> None:
    assert ask(http, head + rest).status_code in EXPECTED


def test_no_worker_was_lost(http: httpx.Client, picture: str, question: str, answer: str) -> None:
    """Last: more good requests at a time than there are workers, all answered."""
    body = {"inputs": question, "images": [picture], "parameters": {"max_new_tokens": 16}}
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: http.post("/generate", json=body), range(16)))
    assert [one.json().get("generated_text") for one in found] == [answer] * 16
    assert http.get("/health").json()["status"] == "ok"
