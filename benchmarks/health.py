"""Whether decoding large pictures holds up the event loop: how soon /health/live answers meanwhile."""

from __future__ import annotations

import base64
import http.client
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.process import server_process
from benchmarks.report import Recorder
from headmap.registry.migrations import migrate
from headmap.settings import Settings

FORMATS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 1}, "WEBP": {"method": 0}}
_EVERY_SECONDS = 0.01


def run(*, record: Recorder, pictures: int = 32, width: int = 4000, height: int = 3000) -> dict[str, Any]:
    """Milliseconds to the answer of /health/live, asked every 10 ms while `pictures` requests bring one each."""
    record.begin("health", {"pictures": pictures, "width": width, "height": height})
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        migrate(settings)
        with server_process(settings.data_dir) as server:
            place = urlsplit(server.url).netloc
            _post(place, _body("JPEG", 640, 480))  # warm up
            for name in ("nothing", *FORMATS):
                bodies = [] if name == "nothing" else [_body(name, width, height)] * pictures
                milliseconds, seconds = _watch(place, bodies)
                row: dict[str, Any] = {
                    "decoded": name,
                    "pictures": len(bodies),
                    "seconds": seconds,
                    "looks": len(milliseconds),
                }
                row |= {f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 99)}
                row |= {"max_ms": max(milliseconds)}
                record.add(row, f"{name:8} {row['p50_ms']:7.1f} {row['p99_ms']:7.1f} {row['max_ms']:7.1f} ms")
            server.end()
    return record.end()


def _watch(place: str, bodies: list[bytes]) -> tuple[list[float], float]:
    """Poll the health while `bodies` are posted, for three seconds where there are none."""
    found: list[float] = []
    connection = http.client.HTTPConnection(place, timeout=60)
    started = perf_counter()
    with ThreadPoolExecutor(max(1, len(bodies))) as pool:
        posts = [pool.submit(_post, place, body) for body in bodies]
        while not all(post.done() for post in posts) if posts else perf_counter() - started < 3:
            asked = perf_counter()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            found.append((perf_counter() - asked) * 1e3)
            sleep(_EVERY_SECONDS)
        for post in posts:
            post.result()
    connection.close()
    return found, perf_counter() - started


def _post(place: str, body: bytes) -> None:
    connection = http.client.HTTPConnection(place, timeout=600)
    connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {text[:300]!r}")
    connection.close()


def _body(form: str, width: int, height: int) -> bytes:
    """A request with a picture of smooth noise, as large a file as a photograph."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(file, form, **FORMATS[form])
    picture = base64.b64encode(file.getvalue()).decode()
    return json.dumps({"inputs": "What?", "images": [picture], "parameters": {"max_new_tokens": 1}}).encode()
