"""What the gateway itself answers while services are away: always a document that says which, never a bare status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from tests.integration.gateway import TRUSTED, Gateway, say
from tests.integration.servers import CannotHave

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    try:
        started = Gateway(tmp_path_factory.mktemp("gateway"))
    except CannotHave as reason:
        pytest.skip(str(reason))
    started.start()
    yield started
    started.stop()


def get(gateway: Gateway, path: str) -> httpx.Response:
    return httpx.get(gateway.url + path, timeout=30, trust_env=False)


def post(gateway: Gateway, path: str) -> httpx.Response:
    return httpx.post(gateway.url + path, json={"inputs": "x"}, timeout=30, trust_env=False)


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
@pytest.mark.parametrize(
    ("scoring", "inference", "status", "expected"),
    [
        (200, 200, 200, {"status": "ok", "service": "inference", "checks": {}}),
        (200, 503, 503, {"status": "unavailable", "service": "inference", "checks": {}}),
        (200, None, 503, {"scoring": "ok", "inference": "unavailable"}),
        (503, 200, 200, {"scoring": "unavailable"}),
        (None, 200, 200, {"scoring": "unavailable"}),
        (503, 503, 503, {"scoring": "unavailable", "inference": "unavailable"}),
        (None, 503, 503, {"scoring": "unavailable", "inference": "unavailable"}),
        (503, None, 503, {"scoring": "unavailable", "inference": "unavailable"}),
        (None, None, 503, {"scoring": "unavailable", "inference": "unavailable"}),
    ],
)
def test_health_names_what_is_away(
    gateway: Gateway, path: str, scoring: int | None, inference: int | None, status: int, expected: dict[str, object]
) -> None:
    with ExitStack() as running:
        for service, ready in (("scoring", scoring), ("inference", inference)):
            if ready is not None:
                running.enter_context(closing(gateway.upstream(service, ready=ready)))
        answer = get(gateway, path)
    found = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    if found["service"] == "gateway":
        assert found["status"] == ("degraded" if status == 200 else "unavailable")
        assert {name: check["status"] for name, check in found["checks"].items()} == expected
    else:
        assert found == expected


PATHS = [
    ("GET", "/maps", "scoring"),
    ("POST", "/score", "scoring"),
    ("POST", "/datasets", "scoring"),
    ("GET", "/policies/org/model/documents", "scoring"),
    ("GET", "/evaluations/abc/answers", "scoring"),
    ("GET", "/scoring/health", "scoring"),
    ("GET", "/score/x/events", "scoring"),
    ("POST", "/generate", "inference"),
    ("POST", "/generate_stream", "inference"),
    ("GET", "/info", "inference"),
    ("GET", "/inference/metrics", "inference"),
    ("GET", "/dashboard/status", "dashboard"),
    ("GET", "/guide/index.html", "dashboard"),
]


@pytest.mark.parametrize(("method", "path", "service"), PATHS)
def test_what_cannot_be_reached_is_a_problem_that_names_it(
    gateway: Gateway, method: str, path: str, service: str
) -> None:
    answer = get(gateway, path) if method == "GET" else post(gateway, path)
    assert answer.status_code in (502, 503, 504)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["retry-after"], answer.headers["cache-control"]) == ("2", "no-store")
    assert answer.headers["x-request-id"]
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (answer.status_code, "unavailable")
    assert problem["detail"] == f"the {service} service cannot be reached now"


def test_under_v1_it_is_openais_error(gateway: Gateway) -> None:
    answer = post(gateway, "/v1/chat/completions")
    assert answer.status_code in (502, 503, 504)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["message"] == "the inference service cannot be reached now"


def test_a_replica_that_dies_before_its_first_event_is_a_problem_and_not_asked_twice(gateway: Gateway) -> None:
    def die(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    with closing(gateway.upstream("inference", answer=die)) as replica:
        answer = post(gateway, "/generate_stream")
        assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json")
        assert answer.json()["detail"] == "the inference service cannot be reached now"
        assert replica.requests == ["/generate_stream"]


def test_a_replica_that_dies_within_its_stream_ends_it_without_its_last_event(gateway: Gateway) -> None:
    """The status is out by then. Caddy 2.8 breaks the connection; older ones end the answer as if it were whole."""

    def stream(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        event = b'data: {"token": {}}\n\n'
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        handler.wfile.flush()
        handler.close_connection = True

    lines = []
    with (
        closing(gateway.upstream("inference", answer=stream)),
        suppress(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{gateway.url}/generate_stream", json={}, timeout=30, trust_env=False) as answer,
    ):
        assert answer.status_code == 200
        for line in answer.iter_lines():
            lines.append(line)
    assert [line for line in lines if line] == ['data: {"token": {}}']


def test_an_answer_of_a_service_passes_as_it_is(gateway: Gateway) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        body = b'{"code":"queue_full"}'
        handler.send_response(503)
        handler.send_header("Content-Type", "application/problem+json")
        handler.send_header("Retry-After", "7")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with closing(gateway.upstream("inference", answer=refuse)):
        answer = post(gateway, "/generate")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json() == {"code": "queue_full"}


def test_what_belongs_to_inference_gets_there_with_or_without_a_slash(gateway: Gateway) -> None:
    posted = ["/", "/tokenize", "/detokenize/", "/v1/chat/completions/", "/generate/?a=b/"]
    with closing(gateway.upstream("inference")) as inference:
        for path in posted:
            assert post(gateway, path).status_code == 200, path
        for path in ("/ping", "/version/", "/v1/models/a%2F", "/v1/models/a/"):
            assert get(gateway, path).status_code == 200, path
        assert get(gateway, "/").json()["service"] == "headmap"
        assert httpx.head(gateway.url + "/", trust_env=False).status_code == 200
    assert [path for path in inference.requests if not path.startswith("/health/live")] == [
        "/", "/tokenize", "/detokenize", "/v1/chat/completions", "/generate?a=b/",
        "/ping", "/version", "/v1/models/a%2F", "/v1/models/a",
    ]  # fmt: skip


def test_no_such_path_is_a_problem(gateway: Gateway) -> None:
    answer = get(gateway, "/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("sender", "believed"), [(TRUSTED, True), ("127.0.0.9", False)])
@pytest.mark.parametrize(("service", "path"), [("dashboard", "/dashboard/status"), ("scoring", "/maps")])
def test_a_proxy_in_front_is_believed_and_a_stranger_is_not(
    gateway: Gateway, sender: str, believed: bool, service: str, path: str
) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def note(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.headers["X-Forwarded-Proto"], handler.headers["X-Forwarded-For"]))
        say(handler, 200, "{}")

    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    transport = httpx.HTTPTransport(local_address=sender)
    with closing(gateway.upstream(service, answer=note)), httpx.Client(transport=transport, trust_env=False) as client:
        assert client.get(gateway.url + path, headers=forwarded).status_code == 200
    assert seen == [("https", f"192.0.2.7, {sender}") if believed else ("http", sender)]
