"""Clients that hang up, and a server that ends: over real connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI

from headmap.settings import Settings
from services.inference.http.app import create_app
from services.inference.intake.fetching import ImageFetcher
from tests.services.inference.conftest import base64_of, live, png, wait_for
from tests.services.inference.fakes import FakeModels


def send(url: str, picture: str, *, stream: bool, **parameters: object) -> socket.socket:
    """Post to /generate and leave the connection open, unread."""
    asked = {"inputs": "What?", "images": [picture], "stream": stream, "parameters": parameters}
    body = json.dumps(asked).encode()
    place = urlsplit(url)
    headers = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection = socket.create_connection((place.hostname, place.port), timeout=10)
    connection.sendall(f"POST /generate HTTP/1.1\r\n{headers}\r\n\r\n".encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_request_in_the_engine(
    app: FastAPI, models: FakeModels, picture: str, stream: bool
) -> None:
    with live(app) as url:
        models.engine.hold = True
        connection = send(url, picture, stream=stream)
        wait_for(lambda: len(models.engine.requests) == 1)
        assert not models.engine.cancelled
        connection.close()
        wait_for(lambda: models.engine.cancelled == {models.engine.requests[0].id}, seconds=2)
        models.engine.hold = False
        answer = httpx.post(f"{url}/generate", json={"inputs": "What?", "images": [picture]})
        assert answer.json()["generated_text"] == "It says ABC"


@pytest.mark.parametrize("stream", [False, True])
def test_an_ending_server_lets_running_requests_finish(
    app: FastAPI, models: FakeModels, picture: str, stream: bool
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with live(app) as url:
            models.engine.hold = True
            body = {"inputs": "What?", "images": [picture], "stream": stream}
            answer = pool.submit(httpx.post, f"{url}/generate", json=body, timeout=20)
            wait_for(lambda: len(models.engine.requests) == 1)
            threading.Timer(0.5, models.engine.released.set).start()
        assert "It says ABC" in answer.result(20).text


def test_more_requests_than_are_taken_get_429_while_pictures_are_decoded(
    settings: Settings, models: FakeModels, picture: str
) -> None:
    tiny = settings.model_copy(update={"max_waiting": 0, "max_running": 1, "prepare_workers": 1})
    with live(create_app(tiny, open_model=models)) as url:
        gate, begun = threading.Event(), threading.Event()
        maker = models.prompt_maker
        prepare = maker.prepare

        def slowly(*given: object) -> object:
            begun.set()
            gate.wait(10)
            return prepare(*given)  # type: ignore[arg-type]

        maker.prepare = slowly  # type: ignore[method-assign, assignment]
        body = {"inputs": "What?", "images": [picture]}
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(httpx.post, f"{url}/generate", json=body, timeout=20)
            assert begun.wait(10)
            assert httpx.post(f"{url}/generate", json=body).status_code == 429
            assert httpx.get(f"{url}/health/live", timeout=1).status_code == 200
            gate.set()
            assert first.result(20).status_code == 200


def test_bodies_of_all_requests_together_are_bounded(settings: Settings, models: FakeModels, picture: str) -> None:
    """Bytes that have arrived count; bytes that are only announced do not. They are free again when a request ends."""
    small = settings.model_copy(update={"max_bodies_bytes": 200_000})
    body = json.dumps({"inputs": "What?", "images": [picture]}).encode()
    with live(create_app(small, open_model=models)) as url:
        place = urlsplit(url)
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n"

        def post(padding: int) -> httpx.Response:
            kind = {"Content-Type": "application/json"}
            return httpx.post(f"{url}/generate", content=body + b" " * padding, headers=kind, timeout=20)

        slow = [socket.create_connection((place.hostname, place.port), timeout=10) for _ in range(20)]
        for connection in slow:
            connection.sendall(head)
        assert post(90_000).status_code == 200
        for connection in slow:
            connection.sendall(b" " * 4000)
        wait_for(lambda: post(30_000).status_code == 429, seconds=20)
        assert post(30_000).headers["retry-after"] == "1"
        assert post(1000).status_code == 200
        for connection in slow:
            connection.close()
        wait_for(lambda: post(90_000).status_code == 200, seconds=20)


def test_hundreds_of_slow_clients_hold_nobody_up(app: FastAPI, models: FakeModels, picture: str) -> None:
    """100 that send their request a byte at a time, 100 that never read their stream; others are served."""
    with live(app) as url:
        place = urlsplit(url)
        writers = [socket.create_connection((place.hostname, place.port), timeout=10) for _ in range(100)]
        for number, connection in enumerate(writers):
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"[: 10 + number])
        readers = [send(url, picture, stream=True) for _ in range(100)]
        for _ in range(5):
            answer = httpx.post(f"{url}/generate", json={"inputs": "What?", "images": [picture]}, timeout=20)
            assert answer.json()["generated_text"] == "It says ABC"
            for connection in writers:
                connection.sendall(b" ")
        wait_for(lambda: len(models.engine.requests) == 105, seconds=20)
        for connection in (*writers, *readers):
            connection.close()


def test_clients_that_leave_end_what_decodes_for_them(app: FastAPI, models: FakeModels, picture: str) -> None:
    """Two pictures of which decoding does not end: a question meanwhile is answered, and so are those after them."""
    with live(app) as url:
        pool = app.state.inference._intake._images.pool
        ask = {"inputs": "What?", "images": [picture]}
        assert httpx.post(f"{url}/generate", json=ask, timeout=20).status_code == 200
        (process,) = [one.pid for one in pool.helpers if one.pid is not None]
        os.kill(process, signal.SIGSTOP)
        hostile = [send(url, picture, stream=False) for _ in range(4)]
        wait_for(lambda: any(one._owes for one in pool.helpers), seconds=20)
        for connection in hostile:
            connection.close()
        assert httpx.post(f"{url}/generate", json=ask, timeout=20).status_code == 200
        wait_for(lambda: process not in [one.pid for one in pool.helpers], seconds=20)


def test_pictures_are_counted_as_fetched_and_as_decoded(settings: Settings, models: FakeModels) -> None:
    """A request of some hundred bytes takes no more than its share, and all of it is free again."""
    small = settings.model_copy(update={"max_bodies_bytes": 2_000_000, "image_url_hosts": ("img.example",)})
    noise = bytes(200_000)

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14"]

    def answer(request: httpx.Request) -> httpx.Response:
        data = noise if request.url.path == "/noise" else png(700, 700)
        return httpx.Response(200, stream=httpx.ByteStream(data))

    fetcher = ImageFetcher(small, resolver=resolve, transport=httpx.MockTransport(answer))
    with live(create_app(small, open_model=models, fetcher=fetcher)) as url:

        def post(*images: str) -> httpx.Response:
            return httpx.post(f"{url}/generate", json={"inputs": "What?", "images": images}, timeout=20)

        for images in (["http://img.example/noise"] * 6, ["http://img.example/large"], [base64_of(png(700, 700))]):
            refused = post(*images)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1"), refused.text
            assert refused.json()["param"].startswith("images.")
        for _ in range(3):
            assert post(base64_of(png(500, 500))).status_code == 200
