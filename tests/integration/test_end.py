"""SIGTERM to the scoring API while a client follows a job that outlasts it."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import httpx
import pytest

from headmap.registry.migrations import migrate
from headmap.settings import DEMO_MODEL, Settings
from tests.integration.processes import Api, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_who_follows_a_job_is_told_and_goes_on_at_the_next_server(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, drain_seconds=20)
    migrate(settings)
    api = Api(settings)
    events: list[dict[str, str]] = []
    ends: list[str] = []

    def follow(job: str) -> None:
        try:
            with httpx.stream("GET", f"{api.url}/score/{job}/events", timeout=60, trust_env=False) as answer:
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name in ("id", "event"):
                        events.append({name: value})
                    elif name == "data":
                        events.append({**(events.pop() if events else {}), "data": value})
            ends.append("whole")
        except httpx.TransportError as error:
            ends.append(repr(error))

    try:
        wait_for(lambda: _is_ready(api.url), "the API is ready", seconds=60)
        body = {"model": DEMO_MODEL, "pages": 2}
        job = httpx.post(f"{api.url}/score", json=body, timeout=30, trust_env=False).json()["id"]
        reader = threading.Thread(target=follow, args=(job,))
        reader.start()
        wait_for(lambda: bool(events), "the first event")
        api.signal(signal.SIGTERM)
        wait_for(lambda: api.code is not None, "the API ends", seconds=15)  # long before it would have to
        reader.join(10)
    finally:
        api.end()
    assert (ends, api.code) == (["whole"], 0)
    assert [event.get("event", event.get("id")) for event in events] == ["queued", "error"]
    problem = json.loads(events[-1]["data"])
    assert (problem["code"], problem["status"]) == ("shutting_down", 503)
    assert all(entry["level"] != "error" for entry in api.entries())


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
