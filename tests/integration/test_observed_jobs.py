"""What operators see of jobs: one id from call to shard, metrics of workers, limits that end what hangs."""

from __future__ import annotations

import re

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select

from headmap.registry.tables import Shard
from headmap.settings import DEMO_MODEL
from tests.integration.cluster import PARAMS, Cluster
from tests.integration.processes import Api, Worker, wait_for
from tests.integration.servers import Redis
from tests.otlp import collecting

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def metrics(worker: Worker, key: str | None = None) -> dict[str, float]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    text = httpx.get(f"{worker.url}/metrics", headers=headers, trust_env=False).raise_for_status().text
    return {name: float(value) for name, value in re.findall(r"^(headmap_\S+) (\S+)$", text, re.MULTILINE)}


def test_one_id_leads_from_the_call_to_the_shard_though_the_broker_forgot(cluster: Cluster, redis: Redis) -> None:
    api = Api(cluster.settings)
    try:
        wait_for(lambda: "starts" in api.log.read_text(), "the API starts")
        body = {"model": DEMO_MODEL, "pages": 4, "max_new_tokens": 8}
        wait_for(lambda: _answers(api.url), "the API answers")
        answer = httpx.post(
            f"{api.url}/score", json=body, headers={"X-Request-ID": "from-the-gateway"}, trust_env=False
        )
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (202, "from-the-gateway")
        redis.flush()  # the id is the job's, not the message's
        worker = cluster.worker(model=DEMO_MODEL)
        cluster.wait_until_ended(answer.json()["id"])
    finally:
        api.end()
    told = [entry for entry in (*api.entries(), *worker.entries()) if entry.get("request_id") == "from-the-gateway"]
    assert {(entry["service"], entry["message"]) for entry in told} >= {
        ("scoring", "request"),
        ("scoring", "job submitted"),
        ("scoring-worker", "shard done"),
    }
    assert {entry["job_id"] for entry in told if "job_id" in entry} == {answer.json()["id"]}


def test_one_trace_leads_from_the_call_to_the_shards(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # what comes is sent at the end of the processes
        api, worker = Api(cluster.settings), cluster.worker(pool="prefork", model=DEMO_MODEL)
        try:
            wait_for(lambda: _answers(api.url), "the API answers")
            caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            body = {"model": DEMO_MODEL, "pages": 8, "max_new_tokens": 8}
            answer = httpx.post(f"{api.url}/score", json=body, headers={"traceparent": caller}, trust_env=False)
            cluster.wait_until_ended(answer.json()["id"])
            assert worker.terminate() == api.terminate() == 0
        finally:
            api.end()
    assert {one.trace_id for one in collector.spans if one.name in ("POST /score", "score shard")} == {caller[3:35]}
    request = collector.named("POST /score")
    shards = [one for one in collector.spans if one.name == "score shard"]
    assert [(one.service, one.parent) for one in shards] == [("headmap-scoring-worker", request.span_id)] * 2
    told = [one for one in (*api.entries(), *worker.entries()) if one.get("message") in ("job submitted", "shard done")]
    assert {one["span_id"] for one in told} == {one.span_id for one in (request, *shards)}


def test_a_worker_tells_what_its_children_did_also_those_that_were_killed(cluster: Cluster) -> None:
    worker = cluster.worker(pool="prefork", pause=0.1)
    job = cluster.submit()
    cluster.wait_until_running(job, pages=6)
    wait_for(lambda: metrics(worker).get('headmap_shards_total{outcome="done"}', 0) >= 1, "a shard is counted")
    worker.kill_children()
    cluster.assert_succeeded(job)
    told = metrics(worker)
    assert told['headmap_shards_total{outcome="done"}'] == PARAMS.pages / 4
    assert told["headmap_pages_scored_total"] == PARAMS.pages
    assert told["headmap_page_seconds_count"] == PARAMS.pages / 4
    assert told["headmap_page_seconds_sum"] >= 0.1 * PARAMS.pages / 4
    assert told["headmap_leases_lost_total"] == cluster.job(job).attempts - 1


def test_a_workers_metrics_need_a_key_where_calls_do(embedded: Cluster) -> None:
    keys = (SecretStr("a-key-of-this-deployment"),)
    embedded.settings = embedded.settings.model_copy(update={"api_keys": keys})
    worker = embedded.worker()
    wait_for(lambda: _answers(worker.url), "the worker answers")
    refused = httpx.get(f"{worker.url}/metrics", trust_env=False)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    told = metrics(worker, "a-key-of-this-deployment")
    assert told["headmap_leases_lost_total"] == 0
    for outcome in ("done", "retry", "failed", "lost"):
        assert told[f'headmap_shards_total{{outcome="{outcome}"}}'] == 0
    elsewhere = httpx.get(
        f"{worker.url}/x", headers={"Authorization": "Bearer a-key-of-this-deployment"}, trust_env=False
    )
    assert (elsewhere.status_code, elsewhere.headers["content-type"]) == (404, "application/problem+json")


def test_a_shard_that_hangs_ends_its_solo_worker_and_is_tried_again(embedded: Cluster) -> None:
    worker, job = hang(embedded, "solo")
    wait_for(lambda: worker.code is not None, "the worker ends")
    assert worker.code == 1
    with embedded.database.read() as session:
        errors = set(session.scalars(select(Shard.error).where(Shard.job_id == job, Shard.failures > 0)))
    assert errors == {"TimeoutError: not done within 3.6 s"}
    embedded.worker()
    embedded.assert_succeeded(job)


def test_a_shard_that_hangs_is_interrupted_in_its_child_and_tried_again(cluster: Cluster) -> None:
    worker, job = hang(cluster, "prefork")
    wait_for(lambda: "Soft time limit" in worker.log.read_text(), "the child is interrupted")
    assert worker.code is None
    worker.end()
    cluster.worker()
    cluster.assert_succeeded(job)


def hang(cluster: Cluster, pool: str) -> tuple[Worker, str]:
    """A worker with a job whose first page takes for ever: it never hears that its time is over, nor that it failed."""
    limits = {"shard_time_limit": 4, "lease_seconds": 1, "sweep_seconds": 0.2}
    cluster.settings = cluster.settings.model_copy(update=limits)
    worker = cluster.worker(pool=pool, pause=3600)
    job = cluster.submit()
    wait_for(lambda: _failures(cluster, job) >= 1, "the attempt fails")
    return worker, job


def _failures(cluster: Cluster, job: str) -> int:
    with cluster.database.read() as session:
        return sum(session.scalars(select(Shard.failures).where(Shard.job_id == job)))


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", trust_env=False).status_code < 500
    except httpx.TransportError:
        return False
