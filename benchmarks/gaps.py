"""How long a running answer waits for its next token while long prompts are prefilled, with and without its turn.

One client reads a long answer, token by token, while another sends prompts of many pictures, one after the other. The
two servers differ in `HEADMAP_MAX_DECODE_GAP_MS` alone.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter
from typing import Any

import httpx
import numpy as np

from benchmarks.process import ServerProcess, server_process
from benchmarks.report import Recorder
from headmap.registry.migrations import migrate
from headmap.scoring.pages import TRANSCRIBE_PROMPT, make_page
from headmap.settings import Settings

SEED = 15
LIMITS_MS = (50, 3_600_000)


def run(*, record: Recorder, prompts: int = 4, pictures: int = 10, rounds: int = 3) -> dict[str, Any]:
    """`prompts` prompts of `pictures` pages each, `rounds` times in turn."""
    record.begin("gaps", {"prompts": prompts, "pictures": pictures, "rounds": rounds})
    with ExitStack() as stack:
        servers = {limit: stack.enter_context(_server(stack, limit)) for limit in LIMITS_MS}
        found: dict[int, list[tuple[list[float], list[float]]]] = {limit: [] for limit in LIMITS_MS}
        for _ in range(rounds):
            for limit, server in servers.items():
                found[limit].append(_drive(server.url, prompts, pictures))
                gaps, firsts = (np.concatenate(values) * 1e3 for values in zip(*found[limit], strict=True))
                row: dict[str, Any] = {"max_decode_gap_ms": limit, "tokens": len(gaps), "rounds": len(found[limit])}
                row |= {f"gap_ms_p{share}": float(np.percentile(gaps, share)) for share in (50, 99)}
                row |= {"gap_ms_max": float(gaps.max()), "prompt_ms_p50": float(np.median(firsts))}
                line = f"limit {limit:8} ms  gaps {row['gap_ms_p50']:6.0f} {row['gap_ms_max']:6.0f} ms"
                record.add(row, line, (limit,))
    return record.end()


def _server(stack: ExitStack, limit: int) -> AbstractContextManager[ServerProcess]:
    settings = Settings(data_dir=Path(stack.enter_context(TemporaryDirectory())))
    migrate(settings)
    return server_process(settings.data_dir, {"HEADMAP_MAX_DECODE_GAP_MS": str(limit)})


def _drive(url: str, prompts: int, pictures: int) -> tuple[list[float], list[float]]:
    """Seconds between the tokens of the long answer while prompts are under way, and to the end of each prompt."""
    started, over = Event(), Event()
    times: list[float] = []

    def read() -> None:
        for moment in _tokens(url, _body(1, 3000)):
            times.append(moment)
            started.set()
            if over.is_set():
                return

    reader = Thread(target=read)
    reader.start()
    started.wait(600)
    began, firsts = perf_counter(), []
    for _ in range(prompts):
        asked = perf_counter()
        firsts += [moment - asked for moment in _tokens(url, _body(pictures, 1))]
    ended = perf_counter()
    over.set()
    reader.join()
    during = [moment for moment in times if began <= moment <= ended]
    return [float(gap) for gap in np.diff([began, *during, ended])], firsts


def _tokens(url: str, body: dict[str, Any]) -> Iterator[float]:
    """When each token of an answer came."""
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=600) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data:") and json.loads(line[5:]).get("token"):
                yield perf_counter()


def _body(pictures: int, new_tokens: int) -> dict[str, Any]:
    images = []
    for index in range(pictures):
        buffer = io.BytesIO()
        make_page(SEED, index).image.save(buffer, "PNG")
        images.append(base64.b64encode(buffer.getvalue()).decode())
    parameters = {"max_new_tokens": new_tokens, "ignore_eos": True, "kv": {"method": "full"}}
    return {"inputs": TRANSCRIBE_PROMPT, "images": images, "parameters": parameters, "stream": True}
