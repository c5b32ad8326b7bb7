"""The load generator against a server that only streams: what it counts, and how many requests it has under way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from time import sleep
from typing import Any

import pytest

from benchmarks.serving import Variant, _drive, _medians

TOKENS, PAUSE = 4, 0.02


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.under_way, self.most, self.asked = Lock(), 0, 0, list[dict[str, Any]]()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        self.send_response(200)
        self.end_headers()
        for number in range(TOKENS):
            sleep(PAUSE)
            event: dict[str, Any] = {"index": number, "token": {"id": 1, "text": "a"}}
            if number == TOKENS - 1:
                event["details"] = {"kv": {"bytes": 1000}}
                with self.server.lock:
                    self.server.under_way -= 1
            self.wfile.write(f"data: {json.dumps(event)}\n\n: ping\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def drive(server: Server, variant: Variant, clients: int, requests: int = 6) -> dict[str, float]:
    bodies = [{"inputs": str(number), "parameters": {"max_new_tokens": TOKENS}} for number in range(requests)]
    return asyncio.run(_drive(f"http://127.0.0.1:{server.server_port}", bodies, variant, clients))


def test_clients_ask_at_once_and_every_token_counts(server: Server) -> None:
    found = drive(server, Variant("some", {"method": "full"}), clients=3)
    assert server.most == 3
    assert sorted(body["inputs"] for body in server.asked) == list("012345")
    assert all(body["parameters"] == {"max_new_tokens": TOKENS, "kv": {"method": "full"}} for body in server.asked)
    assert found["tokens_per_second"] == pytest.approx(found["requests_per_second"] * TOKENS)
    assert found["kv_bytes_per_request"] == 1000


def test_one_at_a_time_waits_and_the_wait_counts(server: Server) -> None:
    found = drive(server, Variant("one", {"method": "full"}, at_once=1), clients=6)
    assert server.most == 1
    assert found["first_token_ms_p95"] >= 5 * TOKENS * PAUSE * 1e3  # five others were served first


def test_rounds_become_medians_with_their_ends() -> None:
    rounds = [{"tokens_per_second": speed, "token_ms_p50": 1 / speed} for speed in (3.0, 1.0, 2.0)]
    assert _medians(rounds) == {
        "tokens_per_second": 2.0, "token_ms_p50": 0.5, "tokens_per_second_low": 1.0, "tokens_per_second_high": 3.0,
        "rounds": 3,
    }  # fmt: skip
