"""What a client of the cluster meets at the gateway: from the first request to crashes and restarts."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from tests.compose.stack import ROOT, SERVICES, Stack

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

MODEL = "headmap/demo-ocr"
SAMPLES = ROOT / "shared" / "headmap" / "demo" / "samples"
PAGE = json.loads((SAMPLES / "pages.jsonl").read_text().splitlines()[0])
QUESTION = PAGE["questions"][0]
PICTURE = base64.b64encode((SAMPLES / PAGE["file"]).read_bytes()).decode()


HOLD_SECONDS = 30
"""lb_try_duration of the Caddyfile: a request waits this long for a replica."""


def generate_body(**parameters: Any) -> dict[str, Any]:
    return {"inputs": QUESTION["question"], "images": [PICTURE], "parameters": parameters}


def wait_for_job(client: httpx.Client, job_id: str, seconds: float = 600) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        job: dict[str, Any] = client.get(f"/score/{job_id}").raise_for_status().json()
        if job["state"] not in ("queued", "running") or time.monotonic() > deadline:
            return job
        time.sleep(0.5)


def score(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/score", json={"model": MODEL, **body})
    assert answer.status_code in (200, 202), answer.text
    job: dict[str, Any] = answer.json()
    return job


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[float, str]]:
    """The data of each server-sent event with the time it came."""
    found = []
    with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data:"):
                found.append((time.monotonic(), line.removeprefix("data:").strip()))
    return found


def test_the_gateway_says_what_is_where(client: httpx.Client) -> None:
    assert client.get("/").json()["documents"][:2] == ["/scoring/openapi.json", "/inference/openapi.json"]
    assert "/score" in client.get("/scoring/openapi.json").json()["paths"]
    assert "/generate" in client.get("/inference/openapi.json").json()["paths"]
    assert "swagger-ui" in client.get("/docs").text
    assert "/generate" in client.get("/dashboard/api/inference/openapi.json").json()["paths"]
    assert client.get("/health/live").json()["service"] == "gateway"
    assert client.get("/scoring/health").json() == {
        "status": "ok",
        "service": "scoring",
        "checks": {"registry": {"status": "ok", "detail": ""}},
    }
    assert client.get("/inference/health/ready").json()["status"] == "ok"
    assert "headmap_registry_up 1.0" in client.get("/scoring/metrics").text
    assert client.get("/info").json()["model_id"] == MODEL
    refused = client.get("/nowhere")
    assert (refused.status_code, refused.headers["content-type"]) == (404, "application/problem+json")
    assert refused.json()["code"] == "not_found"


def test_the_gateway_shows_a_browser_the_dashboard(client: httpx.Client) -> None:
    page = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert "<h1>Playground</h1>" in page.text
    assert client.get("/dashboard/static/css/base.css").status_code == 200
    assert client.get("/dashboard/api/info").json()["model_id"] == MODEL
    services = {one["service"]: one["status"] for one in client.get("/dashboard/status").json()["replicas"]}
    assert services == {"scoring": "ok", "inference": "ok"}


def test_errors_pass_the_gateway_as_they_are(client: httpx.Client) -> None:
    refused = client.post("/generate", json={"inputs": "x", "parameters": {"kv": {"method": "nothing"}}})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert client.get("/score/none").status_code == 404


def test_a_job_becomes_a_map_that_generations_use(client: httpx.Client) -> None:
    job = wait_for_job(client, score(client, pages=4, seed=1)["id"])
    assert (job["state"], job["progress"]) == ("succeeded", {"done": 4, "total": 4}), job
    found = client.get(f"/maps/{job['map_id']}").json()
    assert (found["job_id"], found["pages"], found["model"]) == (job["id"], 4, MODEL)
    picture = client.get(f"/maps/{job['map_id']}/heatmap.svg")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert "</svg>" in picture.text

    kv = {"method": "sparsemm", "ratio": 0.25, "map": job["map_id"]}
    answer = client.post("/generate", json=generate_body(max_new_tokens=16, kv=kv)).raise_for_status().json()
    details = answer["details"]["kv"]
    assert (details["method"], details["map_id"], details["map_match"]) == ("sparsemm", job["map_id"], "exact")
    assert details["bytes"] < details["full_bytes"] / 2


def test_a_job_tells_its_progress_through_the_gateway(client: httpx.Client) -> None:
    job = score(client, pages=4, seed=1)
    with client.stream("GET", f"/score/{job['id']}/events") as response:
        told = [json.loads(line.removeprefix("data:")) for line in response.iter_lines() if line.startswith("data:")]
    assert told[-1]["state"] == "succeeded"


def test_a_page_is_read_with_the_whole_cache(client: httpx.Client) -> None:
    answer = client.post("/generate", json=generate_body(max_new_tokens=32)).raise_for_status().json()
    assert answer["generated_text"].strip() == QUESTION["answer"]
    assert answer["details"]["kv"]["method"] == "full"


def test_a_stream_arrives_token_by_token(client: httpx.Client) -> None:
    body = generate_body(max_new_tokens=300, ignore_eos=True) | {"stream": True}
    began = time.monotonic()
    found = events(client, "/generate", body)
    ended = time.monotonic()
    last = json.loads(found[-1][1])
    assert last["details"]["generated_tokens"] == 300
    assert len(found) > 100
    # held back by the gateway, all would come at the end
    assert found[0][0] - began < (ended - began) / 2
    assert found[len(found) // 2][0] < ended - 0.2 * (ended - found[0][0])


def test_the_real_openai_client_chats(stack: Stack, client: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", http_client=stack.client()) as real:
        real_messages: Any = [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
                    {"type": "text", "text": QUESTION["question"]},
                ],
            }
        ]
        whole = real.chat.completions.create(model=MODEL, messages=real_messages, max_completion_tokens=32)
        assert (whole.choices[0].message.content or "").strip() == QUESTION["answer"]
        parts = real.chat.completions.create(model=MODEL, messages=real_messages, max_completion_tokens=32, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert text == whole.choices[0].message.content


def test_two_replicas_share_the_requests(stack: Stack, client: httpx.Client) -> None:
    stack.up(inference=2, scoring_worker=2)
    deadline = time.monotonic() + 180
    before = [0.0, 0.0]
    while time.monotonic() < deadline:
        try:
            before = [stack.answered(1), stack.answered(2)]
            break
        except AssertionError:
            time.sleep(1)
    with ThreadPoolExecutor(6) as pool:
        bodies = [generate_body(max_new_tokens=24, ignore_eos=True)] * 24
        answers = list(pool.map(lambda body: client.post("/generate", json=body), bodies))
    assert [answer.status_code for answer in answers] == [200] * 24
    shares = [stack.answered(index) - before[index - 1] for index in (1, 2)]
    assert sum(shares) == 24
    assert min(shares) >= 4, shares


def test_a_crashed_replica_ends_its_streams_and_the_other_serves(stack: Stack, client: httpx.Client) -> None:
    """All streams end, those of the living replica whole; and requests are served at once, while the other is away."""
    body = generate_body(max_new_tokens=1500, ignore_eos=True) | {"stream": True}
    ends: list[str] = []

    def read() -> None:
        try:
            with stack.client() as own:
                last = json.loads(events(own, "/generate", body)[-1][1])
            ends.append("whole" if last.get("details") else "error")
        except httpx.TransportError:
            ends.append("cut")

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    time.sleep(2)
    stack.crash("inference", index=2)
    for _ in range(8):
        answer = client.post("/generate", json=generate_body(max_new_tokens=4))
        assert answer.status_code == 200, answer.text
    for reader in readers:
        reader.join(300)
    assert len(ends) == 6, "a stream did not end"
    assert "whole" in ends, ends
    assert set(ends) - {"whole"}, "the crash met no stream"


def test_a_worker_that_crashes_in_its_job_changes_nothing(stack: Stack, client: httpx.Client) -> None:
    first = score(client, pages=16, seed=7)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        job = client.get(f"/score/{first['id']}").json()
        if job["progress"]["done"] > 0 or job["state"] not in ("queued", "running"):
            break
        time.sleep(0.1)
    assert job["state"] == "running", job
    stack.crash("scoring-worker", index=1)
    stack.crash("scoring-worker", index=2)
    disturbed = wait_for_job(client, first["id"])
    assert (disturbed["state"], disturbed["progress"]["done"]) == ("succeeded", 16), disturbed
    undisturbed = wait_for_job(client, score(client, pages=16, seed=7, force=True)["id"])
    checksums = [client.get(f"/maps/{job['map_id']}").json()["checksum"] for job in (disturbed, undisturbed)]
    assert checksums[0] == checksums[1]


@contextmanager
def under_requests(stack: Stack) -> Iterator[list[str]]:
    """Generations one after the other; yields what went wrong with them, filled when the block ends.

    That the gateway gave up after holding a request for as long as it does is no failure: the client is told when to
    come again.
    """
    failures: list[str] = []
    count = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal count
        with stack.client() as own:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    answer = own.post("/generate", json=generate_body(max_new_tokens=8))
                    seconds = time.monotonic() - began
                    gave_up = seconds >= HOLD_SECONDS and "retry-after" in answer.headers
                    if answer.status_code != 200 and not gave_up:
                        failures.append(f"{answer.status_code} after {seconds:.1f} s: {answer.text}")
                except httpx.TransportError as error:
                    failures.append(repr(error))
                count += 1
                time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join(180)
    assert count > 0


@pytest.mark.parametrize("service", ["postgres", "redis", "scoring-api", "scoring-worker", "inference"])
def test_a_restart_costs_no_generation_and_no_job(service: str, stack: Stack, client: httpx.Client) -> None:
    seed = 100 + 10 * SERVICES.index(service)
    with under_requests(stack) as failures:
        job = score(client, pages=4, seed=seed)
        stack.compose("restart", "-t", "60", service)
        time.sleep(3)
    assert failures == []
    assert wait_for_job(client, job["id"])["state"] == "succeeded"
    assert wait_for_job(client, score(client, pages=2, seed=seed + 1)["id"])["state"] == "succeeded"


@pytest.mark.parametrize("service", ["scoring-api", "postgres"])
def test_without_scoring_or_the_registry_generations_go_on_degraded(
    service: str, stack: Stack, client: httpx.Client
) -> None:
    newest = client.get("/maps", params={"limit": 1}).json()["items"][0]["id"]
    kv = {"method": "sparsemm", "ratio": 0.5, "map": newest}  # named: a job of before may still move the default
    before = client.post("/generate", json=generate_body(max_new_tokens=4, kv=kv)).raise_for_status().json()
    stack.compose("stop", service)
    try:
        deadline = time.monotonic() + 60
        while (answer := client.get("/health/ready")).json()["status"] != "degraded":
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.5)
        assert answer.status_code == 200
        now = client.post("/generate", json=generate_body(max_new_tokens=4, kv=kv)).raise_for_status().json()
        assert now["details"]["kv"]["map_id"] == before["details"]["kv"]["map_id"] == newest
        assert now["generated_text"] == before["generated_text"]
    finally:
        stack.compose("start", service)


def test_one_id_leads_from_the_gateway_to_the_worker(stack: Stack, client: httpx.Client) -> None:
    answer = client.post("/score", json={"model": MODEL, "pages": 2, "seed": 77, "force": True})
    name = answer.headers["X-Request-ID"]
    wait_for_job(client, answer.json()["id"])
    client.post("/generate", json=generate_body(max_new_tokens=4), headers={"X-Request-ID": name}).raise_for_status()
    for service in ("gateway", "scoring-api", "scoring-worker", "inference"):
        lines = [line for line in stack.compose("logs", service).stdout.splitlines() if name in line]
        assert lines, service
        if service == "scoring-worker":
            assert answer.json()["id"] in lines[0]


def test_every_service_tells_prometheus(stack: Stack, client: httpx.Client) -> None:
    assert "headmap_shards_open{" in client.get("/scoring/metrics").text
    assert "headmap_kv_cache_capacity_bytes{" in client.get("/inference/metrics").text
    assert 'headmap_shards_total{outcome="done"}' in stack.told("http://scoring-worker:8000/metrics", "scoring-api")
    assert "caddy_http_requests_total" in stack.told("http://gateway:8081/metrics", "inference")
    assert client.get("/metrics").status_code == 404


def test_a_restarted_gateway_serves_again(stack: Stack, client: httpx.Client) -> None:
    stack.compose("restart", "gateway")
    deadline = time.monotonic() + 60
    while True:
        try:
            if client.post("/generate", json=generate_body(max_new_tokens=4)).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_migrations_go_back_and_forth_with_one_command(stack: Stack, client: httpx.Client) -> None:
    """As docs/backup.md has it; last of all, as it empties the registry of all but the bundled map."""
    shown = stack.compose("run", "--rm", "-T", "migrate", "python", "-m", "services.migrate", "--show")
    assert "the registry stands at 2" in shown.stdout + shown.stderr
    stack.compose("run", "--rm", "-T", "migrate", "python", "-m", "services.migrate", "base")
    assert client.get("/scoring/health").status_code == 503
    assert client.get("/health").json()["status"] == "degraded"
    stack.compose("run", "--rm", "-T", "migrate")
    assert client.get("/health").status_code == 200
    assert [record["aliases"] for record in client.get("/maps").json()["items"]] == [["bundled", "default"]]
