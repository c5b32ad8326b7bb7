"""Connections of a live server: how many, how long idle, and what is answered to what is not HTTP."""

from __future__ import annotations

import asyncio
import errno
import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from headmap.http.connections import most_connections, raise_file_limit
from headmap.http.plumbing import install
from headmap.http.problems import SECURITY_HEADERS
from headmap.http.server import Server
from headmap.settings import Settings
from tests.live import connect, read_to_end, running, wait_for

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def application(settings: Settings, gate: threading.Event) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)
    install(app, settings, service="test", checks=lambda request: {}, stored_keys=tuple)

    @app.get("/held")
    async def held() -> str:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return "done"

    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * (32 << 20))

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


@contextmanager
def serving(gate: threading.Event | None = None, **given: object) -> Iterator[tuple[Server, str]]:
    settings = Settings.model_validate({"drain_seconds": 1, "header_seconds": 1.0, "access": "open", **given})
    server = Server(application(settings, gate or threading.Event()), settings, port=0)
    with running(server) as url:
        yield server, url


def problem(answer: bytes) -> tuple[int, dict[str, object]]:
    """Status and document of a refusal, which must be complete, carry the headers and close."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    for name, value in SECURITY_HEADERS.items():
        assert headers[name.lower()] == value
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert (headers["connection"], headers["content-type"]) == ("close", "application/problem+json")
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), json.loads(body)


def test_connections_without_a_request_are_closed() -> None:
    with serving() as (server, url):
        silent, begun, trickling = connect(url), connect(url, GET[:20]), connect(url, GET[:1])
        for number in range(1, 40):
            try:
                trickling.sendall(GET[number : number + 1] if number < 30 else b"")
            except OSError:
                break
            time.sleep(0.1)
        assert read_to_end(silent) == b""
        for connection in (begun, trickling):
            status, document = problem(read_to_end(connection))
            assert (status, document["code"]) == (408, "request_timeout")
        wait_for(lambda: len(server.connections) == 0)


def test_what_is_left_of_a_refused_body_buys_no_time() -> None:
    with serving(access="keys") as (server, url):
        connection = connect(url, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        for _ in range(30):
            try:
                connection.sendall(b" ")
            except OSError:
                break
            time.sleep(0.1)
        wait_for(lambda: len(server.connections) == 0)


def test_a_crowd_of_idle_connections_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    with serving(max_connections=8, header_seconds=60) as (server, url):
        began = time.monotonic()
        crowd = []
        for _ in range(5):
            crowd += [connect(url) for _ in range(10)]
            assert httpx.get(f"{url}/health/live", timeout=20).status_code == 200
        assert len(server.connections) <= 8
        assert read_to_end(crowd[0]) == b""
        time.sleep(1.2)
        lines = [record for record in caplog.records if "connections:" in record.message]
        assert 1 <= len(lines) <= time.monotonic() - began + 1
        for connection in crowd:
            connection.close()


def test_where_none_is_idle_the_next_is_refused() -> None:
    gate = threading.Event()
    with serving(gate, max_connections=4) as (server, url):
        held = [connect(url, b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(4)]
        wait_for(lambda: len(server.server_state.tasks) == 4)
        assert status_of(url) == 503
        gate.set()
        for connection in held:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            connection.close()
        wait_for(lambda: len(server.connections) == 0)
        assert httpx.get(f"{url}/health/live").status_code == 200


def status_of(url: str) -> int:
    answer = read_to_end(connect(url, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    if answer.startswith(b"HTTP/1.1 200 "):
        return 200
    status, document = problem(answer)
    assert document["code"] == "too_many_connections"
    return status


def test_a_client_that_reads_nothing_is_hung_up_on() -> None:
    with serving(reader_seconds=1.0) as (server, url):
        asked = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
        unread, read = connect(url, asked), connect(url, asked.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert len(read_to_end(read)) > 32 << 20
        wait_for(lambda: len(server.connections) == 0, seconds=20)
        assert len(read_to_end(unread)) < 32 << 20


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 100_000, 431, "head_too_large"),
        (CHUNKED + b"1\r\nx\r\n" * 5000, 400, "malformed_request"),
        (CHUNKED + b"1\r\nx\r\nzz\r\n", 400, "malformed_request"),
    ],
)
def test_what_is_not_http_gets_a_problem(sent: bytes, status: int, code: str) -> None:
    with serving() as (_, url):
        found, document = problem(read_to_end(connect(url, sent)))
        assert (found, document["status"], document["code"]) == (status, status, code)
        assert document["detail"]


def test_chunks_of_a_useful_size_pass_and_so_do_pipelined_requests() -> None:
    with serving() as (_, url):
        body = (b"400\r\n" + b"x" * 1024 + b"\r\n") * 5000 + b"0\r\n\r\n"
        few = CHUNKED + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n"
        last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        answer = read_to_end(connect(url, CHUNKED + body + few + GET + last))
        assert answer.count(b"HTTP/1.1 200 ") == 4
        assert b"\r\n\r\n5120000HTTP" in answer
        assert b"\r\n\r\n500HTTP" in answer


async def test_files_that_run_out_are_counted_and_not_told_each_time(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(FastAPI(), Settings())
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(server._handle)
    try:
        for _ in range(100):
            loop.call_exception_handler({"message": "accept", "exception": OSError(errno.EMFILE, "too many")})
        assert caplog.records == []
        server.connections.look(loop.time())
        assert ["100 times there was no file" in record.message for record in caplog.records] == [True]
        loop.call_exception_handler({"message": "another", "exception": OSError(errno.EIO, "broken")})
        assert caplog.records[-1].message == "another"
    finally:
        loop.set_exception_handler(None)


def test_the_file_limit_is_raised_and_connections_stay_below_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        files = raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (files, hard)
        assert files == min(hard, 1 << 16)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most_connections(Settings(), 1024) < 512
    assert most_connections(Settings(max_connections=7), 1 << 16) == 7
