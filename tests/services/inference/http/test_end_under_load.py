"""SIGTERM while requests run and wait: what was accepted is finished, and the process ends with 0."""

from __future__ import annotations

import base64
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.process import server_process
from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.services.inference.conftest import wait_for

pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).parents[4] / "shared" / "headmap" / "demo" / "samples" / "0000.png"


def test_what_was_accepted_is_finished(tmp_path: Path) -> None:
    migrate(Settings(data_dir=tmp_path))
    picture = base64.b64encode(SAMPLE.read_bytes()).decode()
    parameters = {"max_new_tokens": 40, "ignore_eos": True}
    body = {"inputs": "What is the value of BXP?", "images": [picture], "parameters": parameters}
    with server_process(tmp_path, {"HEADMAP_MAX_RUNNING": "4", "HEADMAP_DRAIN_SECONDS": "120"}) as server:

        def ask(number: int) -> httpx.Response:
            return httpx.post(f"{server.url}/generate", json=body | {"stream": number % 2 == 0}, timeout=200)

        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(ask, number) for number in range(24)]
            accepted = "headmap_num_requests_running", "headmap_num_requests_waiting"
            wait_for(lambda: sum(server.metric(name) for name in accepted) == 24, seconds=120)
            server.child.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        assert server.child.wait(120) == 0
    for number, answer in enumerate(answers):
        assert answer.status_code == 200
        assert answer.text.count('"finish_reason"') == 1
        assert ("data:" in answer.text) == (number % 2 == 0)


def test_what_does_not_finish_in_time_is_told_so_and_the_process_ends(tmp_path: Path) -> None:
    migrate(Settings(data_dir=tmp_path))
    picture = base64.b64encode(SAMPLE.read_bytes()).decode()
    body = {"inputs": "What?", "images": [picture], "parameters": {"max_new_tokens": 3500, "ignore_eos": True}}
    with server_process(tmp_path, {"HEADMAP_DRAIN_SECONDS": "1"}) as server:

        def ask(number: int) -> httpx.Response:
            return httpx.post(f"{server.url}/generate", json=body | {"stream": number % 2 == 0}, timeout=200)

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, number) for number in range(4)]
            wait_for(lambda: server.metric("headmap_num_requests_running") == 4, seconds=120)
            server.child.send_signal(signal.SIGTERM)
            answers = [one.result() for one in asked]
        assert server.child.wait(60) == 0
    for number, answer in enumerate(answers):
        assert answer.status_code == (200 if number % 2 == 0 else 503)
        assert answer.text.count('"code": "shutting_down"' if number % 2 == 0 else '"code":"shutting_down"') == 1
