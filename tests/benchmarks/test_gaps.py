"""What `bench gaps` counts, against a server that streams one answer and stands still for each long prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from time import sleep
from typing import Any

import pytest

from benchmarks.gaps import _drive

PAUSE, STALL = 0.02, 0.4


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(len(body["images"]))
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(body["parameters"]["max_new_tokens"]):
                if len(body["images"]) > 1:
                    with self.server.model:
                        sleep(STALL)
                sleep(PAUSE)
                with self.server.model:
                    event: dict[str, Any] = {"token": {"id": 1, "text": "a"}}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader has seen enough

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = Lock()
        self.asked: list[int] = []


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_prompt_that_holds_up_the_answer_shows_as_a_gap(server: Server) -> None:
    gaps, prompts = _drive(f"http://127.0.0.1:{server.server_port}", prompts=2, pictures=3)
    assert server.asked == [1, 3, 3]
    assert len(prompts) == 2
    assert min(prompts) >= STALL
    assert sum(gap for gap in gaps if gap >= STALL * 0.9) >= 2 * STALL * 0.9
    assert sum(gaps) >= sum(prompts)
