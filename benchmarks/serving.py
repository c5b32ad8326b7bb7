"""N clients over HTTP with mixed page sizes: throughput and latency of `sparsemm`, of `full`, and of one at a time.

The variants are measured in turn against one server in a process of its own, the pages the same for all. With one at a
time, clients wait for each other as they do at a server that has no batches; their waiting counts.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import httpx

from benchmarks.process import server_process
from benchmarks.report import Recorder
from headmap.jobs.local import profile_here
from headmap.jobs.profiler import ProfilerScorer
from headmap.models import find_model
from headmap.registry.job_params import JobParams
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.scoring.pages import TRANSCRIBE_PROMPT, make_page
from headmap.settings import DEMO_MODEL, Settings

SEED = 14
TOKENS = (16, 32, 64, 128)
"""New tokens of the requests, in turn: answers differ in length."""


@dataclass(frozen=True)
class Variant:
    """The requests, and how many may be open at once."""

    name: str
    kv: dict[str, Any]
    at_once: int | None = None


VARIANTS = (
    Variant("full", {"method": "full"}),
    Variant("sparsemm 20 %", {"method": "sparsemm", "ratio": 0.2}),
    Variant("one at a time", {"method": "full"}, at_once=1),
)


def run(
    *,
    record: Recorder,
    clients: Sequence[int] = (1, 2, 4, 8, 16, 32),
    requests: int = 64,
    rounds: int = 3,
    variants: Sequence[Variant] = VARIANTS,
) -> dict[str, Any]:
    """`requests` transcriptions a variant, by each number of clients, `rounds` times in turn."""
    bodies = [_body(index) for index in range(requests)]
    settings = {"requests": requests, "max_new_tokens": TOKENS, "rounds": rounds}
    record.begin("serving", settings)
    with TemporaryDirectory() as folder:
        file_map(Settings(data_dir=Path(folder)))
        with server_process(Path(folder)) as server:
            asyncio.run(_drive(server.url, bodies[:4], variants[0], 4))  # warm up
            for number in clients:
                found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
                for _ in range(rounds):
                    for variant in variants:
                        found[variant.name].append(asyncio.run(_drive(server.url, bodies, variant, number)))
                        row = {"clients": number, "method": variant.name, **_medians(found[variant.name])}
                        line = f"{number:3} clients  {variant.name:14} {row['tokens_per_second']:7.1f} tokens/s"
                        record.add(row, line, (number, variant.name))
            server.end()
    return record.end()


def _body(index: int) -> dict[str, Any]:
    """A page as a data: URL, and how many tokens of it to read."""
    buffer = io.BytesIO()
    make_page(SEED, index).image.save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return {
        "inputs": TRANSCRIBE_PROMPT,
        "images": [f"data:image/png;base64,{picture}"],
        "parameters": {"max_new_tokens": TOKENS[index % len(TOKENS)]},
        "stream": True,
    }


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    speeds = [one["tokens_per_second"] for one in rounds]
    spread = {"tokens_per_second_low": min(speeds), "tokens_per_second_high": max(speeds), "rounds": len(rounds)}
    return {key: median(one[key] for one in rounds) for key in rounds[0]} | spread


@dataclass
class _Seen:
    """Seconds and counts over all clients."""

    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


async def _drive(url: str, bodies: Sequence[dict[str, Any]], variant: Variant, clients: int) -> dict[str, float]:
    queue, seen = list(bodies)[::-1], _Seen()
    gate = asyncio.Semaphore(variant.at_once or clients)

    async def client(http: httpx.AsyncClient) -> None:
        while queue:
            body = queue.pop()
            asked = perf_counter()
            async with gate:
                await _read(http, url, body | {"parameters": body["parameters"] | {"kv": variant.kv}}, asked, seen)

    started = perf_counter()
    async with httpx.AsyncClient(timeout=600) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    elapsed = perf_counter() - started
    return {
        "tokens_per_second": (len(seen.firsts) + len(seen.gaps)) / elapsed,
        "requests_per_second": len(bodies) / elapsed,
        "first_token_ms_p50": _quantile(seen.firsts, 0.5), "first_token_ms_p95": _quantile(seen.firsts, 0.95),
        "token_ms_p50": _quantile(seen.gaps, 0.5), "token_ms_p95": _quantile(seen.gaps, 0.95),
        "kv_bytes_per_request": median(seen.kept),
    }  # fmt: skip


async def _read(http: httpx.AsyncClient, url: str, body: dict[str, Any], asked: float, seen: _Seen) -> None:
    """One request, token by token; its first token counts from `asked`."""
    last = None
    async with http.stream("POST", f"{url}/generate", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            event, now = json.loads(line[5:]), perf_counter()
            if event.get("error"):
                raise RuntimeError(event["error"])
            if event.get("token"):
                seen.firsts.append(now - asked) if last is None else seen.gaps.append(now - last)
                last = now
            if event.get("details"):
                seen.kept.append(event["details"]["kv"]["bytes"])


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3


def file_map(settings: Settings, pages: int = 16) -> None:
    """Profile the bundled model into the registry that `settings` names, as its default map."""
    info = find_model(DEMO_MODEL, settings)
    migrate(settings)
    database = open_database(settings)
    params = JobParams(dataset="synthetic", pages=pages, rule="aligned", seed=SEED, max_new_tokens=256)
    try:
        job = profile_here(database, settings, info, params, ProfilerScorer(settings))
    finally:
        database.close()
    if job.map_id is None:
        raise RuntimeError(f"the model could not be profiled: {job.error}")
