"""N clients over HTTP with mixed page sizes: throughput and latency of `sparsemm`, of `full`, and of one at a time.

The variants are measured in turn against one live server, the questions the same for all.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from threading import Thread
from time import perf_counter, sleep
from typing import Any

import httpx
import uvicorn

from benchmarks.report import document
from headmap.jobs.local import profile_here
from headmap.jobs.profiler import ProfilerScorer
from headmap.models import find_model
from headmap.registry.jobs import JobParams
from headmap.registry.migrations import migrate
from headmap.registry.session import open_database
from headmap.scoring.pages import TRANSCRIBE_PROMPT, make_page
from headmap.settings import DEMO_MODEL, Settings

SEED = 14
KV: dict[str, dict[str, Any]] = {"full": {"method": "full"}, "sparsemm 20 %": {"method": "sparsemm", "ratio": 0.2}}


def run(
    *,
    url: str,
    clients: Sequence[int] = (1, 4, 16, 32),
    requests: int = 32,
    max_new_tokens: int = 48,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """`requests` transcriptions a variant, by each number of clients, `rounds` times in turn against `url`."""
    bodies = [_body(index, max_new_tokens) for index in range(requests)]
    asyncio.run(_drive(url, bodies[:4], KV["full"], 4))  # warm up
    rows: list[dict[str, Any]] = []
    for number in clients:
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in KV}
        for _ in range(rounds):
            for name, kv in KV.items():
                measured[name].append(asyncio.run(_drive(url, bodies, kv, number)))
        for name, found in measured.items():
            row = {key: median(one[key] for one in found) for key in found[0]}
            rows.append({"clients": number, "method": name, **row})
            progress(f"{number:3} clients  {name:14} {row['tokens_per_second']:7.1f} tokens/s")
    return document("serving", {"requests": requests, "max_new_tokens": max_new_tokens, "rounds": rounds}, rows)


def _body(index: int, max_new_tokens: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    make_page(SEED, index).image.save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return {
        "inputs": TRANSCRIBE_PROMPT,
        "images": [f"data:image/png;base64,{picture}"],
        "parameters": {"max_new_tokens": max_new_tokens},
        "stream": True,
    }


async def _drive(url: str, bodies: Sequence[dict[str, Any]], kv: dict[str, Any], clients: int) -> dict[str, float]:
    queue = list(bodies)
    firsts: list[float] = []
    gaps: list[float] = []
    kept: list[float] = []
    tokens = 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal tokens
        while queue:
            body = queue.pop()
            body = body | {"parameters": body["parameters"] | {"kv": kv}}
            started = last = perf_counter()
            async with http.stream("POST", f"{url}/generate", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    event, now = json.loads(line[5:]), perf_counter()
                    if event.get("error"):
                        raise RuntimeError(event["error"])
                    tokens += 1
                    (firsts if last == started else gaps).append(now - last)
                    last = now
                    if event.get("details"):
                        kept.append(event["details"]["kv"]["bytes"])

    started = perf_counter()
    async with httpx.AsyncClient(timeout=600) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    elapsed = perf_counter() - started
    return {
        "tokens_per_second": tokens / elapsed, "requests_per_second": len(bodies) / elapsed,
        "first_token_ms_p50": _quantile(firsts, 0.5), "first_token_ms_p95": _quantile(firsts, 0.95),
        "token_ms_p50": _quantile(gaps, 0.5), "token_ms_p95": _quantile(gaps, 0.95),
        "kv_bytes_per_request": median(kept),
    }  # fmt: skip


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3


@contextmanager
def live_server(settings: Settings, port: int) -> Iterator[str]:
    """The inference service on loopback for as long as the block runs."""
    from services.inference.app import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_level="warning"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


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
