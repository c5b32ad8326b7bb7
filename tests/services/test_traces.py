"""One trace from a caller's request to a worker's shard and to the engine, as a collector gets it over OTLP."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from headmap.errors import OutOfMemory
from headmap.http.logs import JsonFormatter
from headmap.jobs.celery_app import create_celery
from headmap.models import find_model
from headmap.settings import DEMO_MODEL, Settings
from headmap.tracing import NO_SPAN, NO_TRACER, entered, open_tracer
from services.dashboard.app import create_app as create_dashboard
from services.dashboard.state import Addresses
from services.inference.http.app import create_app as create_inference
from services.scoring.app import create_app as create_scoring
from tests.otlp import Collector, collecting
from tests.services.inference.fakes import FakeModels
from tests.shared.jobs.fakes import CountingBroker, FakeScorer

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM_CALLER = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
SERVER, CONSUMER = 2, 5


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        yield found


@pytest.fixture
def settings(tmp_path: Path, migrated: Callable[[Settings], None]) -> Settings:
    settings = Settings(data_dir=tmp_path, shard_pages=4)
    migrated(settings)
    return settings


def test_a_jobs_shards_belong_to_the_trace_of_its_request(collector: Collector, settings: Settings) -> None:
    app = create_scoring(settings, broker=CountingBroker())
    with TestClient(app) as client:
        job = client.post("/score", json={"model": DEMO_MODEL, "pages": 8}, headers=FROM_CALLER).json()["id"]
        client.get("/health/ready", headers=FROM_CALLER)
        client.get("/metrics", headers=FROM_CALLER)
        client.get("/maps/none", headers=FROM_CALLER)
        app.state.tracer.flush()
    tracer, info = open_tracer("scoring-worker"), find_model(DEMO_MODEL, settings)

    def scorer(_: Settings) -> FakeScorer:
        return FakeScorer(shape=(info.num_layers, info.num_heads))

    worker = create_celery(settings, scorer, tracer=tracer)
    for number in range(2):
        assert worker.headmap_runtime.score_shard(job, number) == "done"
    tracer.flush()

    assert {one.trace_id for one in collector.spans} == {TRACE}
    assert len(collector.spans) == 5, "neither health nor metrics are traced"
    request = collector.named("POST /score")
    assert (request.service, request.kind, request.parent) == ("headmap-scoring", SERVER, CALLER)
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["headmap.job.id"] == job
    shards = [one for one in collector.spans if one.name == "score shard"]
    assert {(one.service, one.kind, one.parent) for one in shards} == {
        ("headmap-scoring-worker", CONSUMER, request.span_id)
    }
    assert [one.attributes["headmap.shard.number"] for one in shards] == [0, 1]
    assert {one.attributes["headmap.shard.outcome"] for one in shards} == {"done"}
    assert not any(one.failed for one in collector.spans), "404 is the client's"


def test_a_failed_attempt_is_a_failed_span(collector: Collector, settings: Settings) -> None:
    app = create_scoring(settings, broker=CountingBroker())
    with TestClient(app) as client:
        job = client.post("/score", json={"model": DEMO_MODEL, "pages": 4}).json()["id"]
    app.state.tracer.flush()

    def broken(_: Settings) -> FakeScorer:
        raise RuntimeError("no model")

    tracer = open_tracer("scoring-worker")
    assert create_celery(settings, broken, tracer=tracer).headmap_runtime.score_shard(job, 0) == "retry"
    tracer.flush()
    span = collector.named("score shard")
    assert (span.failed, span.attributes["error.type"]) == (True, "retry")


def ask(settings: Settings, models: FakeModels, text: str, **body: object) -> httpx.Response:
    app = create_inference(settings, open_model=models)
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.post(
            "/v1/chat/completions",
            json={"model": DEMO_MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 5, **body},
            headers={**FROM_CALLER, "Authorization": "Bearer hm-secret-key"},
        )
        app.state.tracer.flush()
    return response


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_tells_its_parts(collector: Collector, settings: Settings, stream: bool) -> None:
    ask(settings, FakeModels(), "my private question", stream=stream)
    request, prepare = collector.named("POST /v1/chat/completions"), collector.named("prepare")
    generation = collector.named(f"generate_content {DEMO_MODEL}")
    parts = [collector.named(name) for name in ("queue", "prefill", "decode")]
    assert (request.service, request.parent) == ("headmap-inference", CALLER)
    assert prepare.parent == generation.parent == request.span_id
    assert {one.parent for one in parts} == {generation.span_id}
    assert [one.end - one.start for one in parts] == [1_000_000, 2_000_000, 12_000_000]
    assert [one.end for one in parts[:-1]] == [one.start for one in parts[1:]]
    told = generation.attributes
    assert told["gen_ai.request.model"] == DEMO_MODEL
    assert told["gen_ai.usage.output_tokens"] == 5
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert b"private" not in collector.bodies
    assert b"hm-secret-key" not in collector.bodies


def test_a_generation_that_fails_ends_its_spans(collector: Collector, settings: Settings) -> None:
    def failing(shape: object) -> object:
        engine = FakeModels().make_engine(shape)  # type: ignore[arg-type]
        engine.fail = OutOfMemory("none is left")
        return engine

    response = ask(settings, FakeModels(make_engine=failing), "?")  # type: ignore[arg-type]
    generation, request = (
        collector.named(f"generate_content {DEMO_MODEL}"),
        collector.named("POST /v1/chat/completions"),
    )
    assert (generation.failed, generation.attributes["error.type"]) == (True, "out_of_memory")
    assert (request.failed, request.attributes["error.type"]) == (True, str(response.status_code))


def test_the_dashboard_hands_the_trace_on(collector: Collector, settings: Settings) -> None:
    asked: list[httpx.Request] = []

    async def service(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))

    url = "http://gateway"
    app = create_dashboard(settings, Addresses(url, (url,)), transport=httpx.MockTransport(service))
    with TestClient(app) as client:
        client.get("/dashboard/api/maps", headers=FROM_CALLER)
        app.state.tracer.flush()
    (span,) = collector.spans
    assert asked[0].headers["traceparent"] == f"00-{TRACE}-{span.span_id}-01"


def test_log_lines_name_their_span(collector: Collector) -> None:
    tracer, formatter = open_tracer("test"), JsonFormatter("test")
    record = logging.LogRecord("test", logging.INFO, __file__, 1, "hello", (), None)
    with entered(tracer.start("work", "internal", FROM_CALLER)) as span:
        inside = json.loads(formatter.format(record))
    assert (inside["trace_id"], inside["span_id"]) == (TRACE, span.ids["span_id"])
    assert "trace_id" not in json.loads(formatter.format(record))


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_caller_decides_whether_its_trace_is_kept(collector: Collector, flags: str) -> None:
    tracer = open_tracer("test")
    with entered(tracer.start("work", "server", {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"})) as span:
        assert span.ids["trace_id"] == TRACE, "log lines belong together all the same"
    tracer.flush()
    assert len(collector.spans) == int(flags)


def test_otels_own_variables_name_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    tracer = open_tracer("test")
    tracer.start("work", "server", {}).end()
    tracer.flush()
    assert collector.named("work").service == "ours"


def test_an_exception_fails_the_span(collector: Collector) -> None:
    tracer = open_tracer("test")
    with pytest.raises(OutOfMemory), entered(tracer.start("work", "server", {})):
        raise OutOfMemory("none is left")
    tracer.flush()
    assert collector.named("work").attributes["error.type"] == "OutOfMemory"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_where_nobody_collects_there_are_no_spans(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert open_tracer("test") is NO_TRACER
    assert NO_TRACER.start("work", "server", FROM_CALLER) is NO_SPAN
    assert NO_SPAN.child("part") is NO_SPAN


@pytest.mark.parametrize(("endpoint", "missing"), [("", False), ("http://127.0.0.1:9", True)])
def test_without_a_collector_or_the_extra_nothing_of_it_is_imported(endpoint: str, missing: bool) -> None:
    program = (
        "import os, sys\n"
        f"os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = {endpoint!r}\n"
        + ("sys.modules['opentelemetry.sdk'] = None\n" if missing else "")
        + "from headmap.settings import Settings\n"
        "from services.dashboard.app import create_app\n"
        "from services.dashboard.state import Addresses\n"
        "create_app(Settings(), Addresses('http://a', ()))\n"
        "assert sys.modules.get('opentelemetry.sdk') is None\n"
    )
    root = Path(__file__).parents[2]
    path = f"{root / 'shared'}:{root}"
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("the extra `traces` is missing" in done.stderr) == missing
