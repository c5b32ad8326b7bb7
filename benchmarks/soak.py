"""Whether the server's memory stays flat: thousands of requests of all methods, page sizes and endings."""

from __future__ import annotations

import asyncio
import base64
import io
import random
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.process import ServerProcess, server_process
from benchmarks.report import Recorder
from benchmarks.serving import file_map
from headmap.kvcache.methods import METHODS
from headmap.scoring.pages import make_page
from headmap.settings import Settings

SEED = 6
PAGES = 40
RATIOS = (0.05, 0.1, 0.2, 0.4, 0.7)
HANG_UP_EVERY = 25
BROKEN_EVERY = 40
LONG_EVERY = 6
KV_MEMORY_BYTES = 6_000_000
"""Little more than the largest request takes, so that long answers take each other's pages."""


def run(
    *, record: Recorder, requests: int = 3000, clients: int = 8, step: int = 50, kv_memory_bytes: int = KV_MEMORY_BYTES
) -> dict[str, Any]:
    """Resident memory of a server of its own after each `step` of `requests`; the first fifth is warm-up.

    `growth_kib_per_request` is the slope of a line through the rest (least squares). `preempted`: how often a request
    had to wait once more, since KV memory ran short.
    """
    settings = {"requests": requests, "clients": clients, "pages": PAGES, "kv_memory_bytes": kv_memory_bytes}
    record.begin("soak", settings | {"methods": list(METHODS)})
    with TemporaryDirectory() as folder:
        data_dir = Path(folder)
        file_map(Settings(data_dir=data_dir), pages=8)
        with server_process(data_dir, {"HEADMAP_KV_MEMORY_BYTES": str(kv_memory_bytes)}) as server:
            rows, ended = asyncio.run(_drive(record, server, requests, clients, step))
            held, left, preempted = (
                server.metric(f"headmap_{name}")
                for name in ("kv_cache_held_bytes", "num_requests_running", "num_preemptions_total")
            )
            code = server.end()
    warm = [row for row in rows if row["requests"] >= requests / 5]
    quarter = max(1, len(warm) // 4)
    first, last = (median(row["rss_mib"] for row in part) for part in (warm[:quarter], warm[-quarter:]))
    return record.end(
        growth_kib_per_request=_slope(warm) * 1024, rss_mib_first=first, rss_mib_last=last,
        ended=ended, preempted=preempted, kv_held_bytes_after=held, running_after=left, exit_code=code,
    )  # fmt: skip


async def _drive(
    record: Recorder, server: ServerProcess, requests: int, clients: int, step: int
) -> tuple[list[dict[str, float]], dict[str, int]]:
    pictures = [_picture(index) for index in range(PAGES)]
    left = list(range(requests))[::-1]
    ended = {"answered": 0, "hung up": 0, "refused": 0}
    rows: list[dict[str, float]] = []

    async def client(http: httpx.AsyncClient) -> None:
        while left:
            number = left.pop()
            ended[await _ask(http, server.url, number, pictures)] += 1
            done = sum(ended.values())
            if done % step == 0:
                rows.append({"requests": done, "rss_mib": round(await asyncio.to_thread(server.rss_mib), 1)})
                record.add(rows[-1], f"{done:6} requests  {rows[-1]['rss_mib']:8.1f} MiB")

    async with httpx.AsyncClient(timeout=600) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return rows, ended


async def _ask(http: httpx.AsyncClient, url: str, number: int, pictures: list[str]) -> str:
    """Request `number`, the same in every run: method, size, length, streamed or whole, and how it ends."""
    chance = random.Random(number)
    method = list(METHODS)[number % len(METHODS)]
    kv: dict[str, Any] = {"method": method}
    if method != "full":
        kv["ratio"] = chance.choice(RATIOS)
    length = chance.randint(80, 200) if number % LONG_EVERY == 0 else chance.randint(1, 12)
    parameters = {"max_new_tokens": length, "ignore_eos": True, "kv": kv}
    images = chance.sample(pictures, chance.choice((1, 1, 1, 2)))
    if number % BROKEN_EVERY == 1:
        images[0] = images[0][: len(images[0]) // 8 * 4]
    body = {"inputs": "What is the value of KEY?", "images": images, "parameters": parameters}
    if number % HANG_UP_EVERY == 0:
        parameters["max_new_tokens"] = 400
        async with http.stream("POST", f"{url}/generate", json=body | {"stream": True}) as response:
            async for _ in response.aiter_lines():
                return "hung up"
    path = chance.choice(("/generate", "/generate_stream"))
    answer = await http.post(f"{url}{path}", json=body)
    if answer.status_code not in (200, 422) or "event: error" in answer.text:
        raise RuntimeError(f"request {number}: {answer.status_code} {answer.text[:500]}")
    return "answered" if answer.status_code == 200 else "refused"


def _picture(index: int) -> str:
    buffer = io.BytesIO()
    make_page(SEED, index).image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _slope(rows: list[dict[str, float]]) -> float:
    """MiB per request."""
    if len(rows) < 2:
        return 0.0
    xs, ys = [row["requests"] for row in rows], [row["rss_mib"] for row in rows]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
