"""An inference process whose engine ends by itself: who waits is answered, and the process ends with a failure."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.integration.processes import Process, wait_for
from tests.integration.servers import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def picture() -> str:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_all_who_wait_are_answered_and_the_process_ends_with_1(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, drain_seconds=60, access="open")
    migrate(settings)
    port = free_port()
    process = Process(settings, "inference", ["tests.integration.fake_inference", "--port", str(port)])

    def get(path: str) -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5, trust_env=False).text
        except httpx.TransportError:
            return ""

    def ask(stream: bool, tokens: int) -> httpx.Response:
        body = {"inputs": "What?", "images": [picture()], "stream": stream, "parameters": {"max_new_tokens": tokens}}
        return httpx.post(f"http://127.0.0.1:{port}/generate", json=body, timeout=60, trust_env=False)

    try:
        wait_for(lambda: '"ok"' in get("/health/ready"), "it is ready", seconds=60)
        with ThreadPoolExecutor(4) as pool:
            held = [pool.submit(ask, stream, 5) for stream in (True, False)]
            running = 'headmap_time_to_first_token_seconds_count{model_name="headmap/demo-ocr"} 2.0'
            wait_for(lambda: running in get("/metrics"), "both have their first token")
            last = pool.submit(ask, False, 1)
            wait_for(lambda: process.code is not None, "it ends", seconds=20)  # long before it would have to
        answers = [one.result() for one in (*held, last)]
    finally:
        process.end()
    assert process.code == 1
    assert [answer.status_code for answer in answers] == [200, 503, 503]  # a stream has begun with 200
    assert all(answer.text.count("device_failed") == 1 for answer in answers)
    told = [entry for entry in process.entries() if entry["level"] == "critical"]
    assert [entry["message"] for entry in told] == [
        "the engine of headmap/demo-ocr ended by itself; this process ends, to be started again"
    ]
