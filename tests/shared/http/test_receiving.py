"""How bodies arrive: their pace, and the share of each caller. Over real sockets where it matters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI, Request

from headmap.errors import BodiesTooLarge
from headmap.http.auth import KEY_NAME
from headmap.http.plumbing import install
from headmap.http.receiving import Pace, SharedBytes, caller_of
from headmap.settings import Settings
from tests.live import connect, live, read_to_end, wait_for


def test_a_body_at_its_rate_may_take_all_its_time_and_no_longer() -> None:
    pace = Pace(rate=100, grace=5, seconds=60)
    for _ in range(59):
        pace.note(1.0, 100)
        assert pace.patience > 0
    pace.note(1.0, 100)
    assert pace.patience == 0


@pytest.mark.parametrize(("waited", "size"), [(5.0, 0), (1.0, 50), (2.5, 1), (0.1, 1)])
def test_no_fast_start_buys_a_slow_body_more_than_the_grace(waited: float, size: int) -> None:
    pace = Pace(rate=100, grace=5, seconds=1e9)
    pace.note(0.0, 10**9)
    spent = 0.0
    while pace.patience > 0:
        pace.note(waited, size)
        spent += waited
    assert spent <= 5 / (1 - size / (waited * 100)) + waited


def test_a_caller_holds_no_more_than_it_leaves_to_others() -> None:
    shared = SharedBytes(100)
    shared.take("a", 50)
    with pytest.raises(BodiesTooLarge):
        shared.take("a", 1)
    shared.give_back("a", 51)
    for number in range(9):
        shared.take(f"{number}", 10)
    shared.take("late", 5)
    with pytest.raises(BodiesTooLarge):
        shared.take("0", 1)
    shared.give_back("0", 11)
    shared.give_back("late", 5)
    shared.take("late", 10)


def test_a_caller_is_a_key_or_else_an_address() -> None:
    def of(host: str, port: int = 1, **more: str) -> str:
        return caller_of({"client": (host, port), **more})

    assert of("1.2.3.4", **{KEY_NAME: "one"}) != of("1.2.3.4", **{KEY_NAME: "two"})
    assert of("1.2.3.4") == of("1.2.3.4", port=2)
    assert of("2001:db8::1") == of("2001:db8::ffff:2")
    assert of("2001:db8::1") != of("2001:db8:0:1::1")
    assert of("::ffff:1.2.3.4") != of("::ffff:1.2.3.5")
    assert isinstance(caller_of({}), str)


@contextmanager
def echoing(**given: object) -> Iterator[str]:
    settings = Settings.model_validate(
        {"drain_seconds": 1, "body_grace_seconds": 0.5, "body_min_rate": 10_000, **given}
    )
    app = FastAPI(docs_url=None, redoc_url=None)
    install(app, settings, service="test", checks=lambda request: {}, stored_keys=tuple)

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    with live(app, settings) as url:
        yield url


def head(length: int, *lines: str) -> bytes:
    return "\r\n".join(["POST /echo HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]).encode()


def assert_too_slow(answer: bytes) -> None:
    lines, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"HTTP/1.1 408 " in lines
    assert b"connection: close" in lines.lower()
    assert json.loads(body)["code"] == "request_timeout"


def test_bodies_that_stall_or_trickle_are_given_up() -> None:
    with echoing() as url:
        nothing = connect(url, head(1000))
        announced = connect(url, head(1000, "Expect: 100-continue"))
        burst = connect(url, head(1_000_000) + b" " * 900_000)
        trickle = connect(url, head(1000))
        for _ in range(30):
            try:
                trickle.sendall(b" ")
            except OSError:
                break
            time.sleep(0.05)
        for connection in (nothing, burst, trickle, announced):
            assert_too_slow(read_to_end(connection))


def test_a_body_that_is_slow_enough_passes() -> None:
    with echoing() as url:
        connection = connect(url, head(20_000, "Connection: close"))
        for _ in range(20):
            connection.sendall(b" " * 1000)
            time.sleep(0.06)
        assert read_to_end(connection).endswith(b"\r\n\r\n20000")


def test_all_of_a_body_must_have_come_in_its_time() -> None:
    with echoing(body_seconds=0.5, body_grace_seconds=60) as url:
        assert_too_slow(read_to_end(connect(url, head(1000))))


CALLERS = {
    "keys": (["Authorization: Bearer one"], ["Authorization: Bearer two"]),
    "addresses": (["X-Forwarded-For: 192.0.2.1"], ["X-Forwarded-For: 192.0.2.2"]),
}


@pytest.mark.parametrize("kind", CALLERS)
def test_stalled_senders_take_nothing_from_other_callers(kind: str) -> None:
    mine, others = CALLERS[kind]
    keys = ("one", "two") if kind == "keys" else ()
    with echoing(max_bodies_bytes=1_000_000, body_grace_seconds=20, api_keys=keys) as url:

        def post(size: int, lines: list[str]) -> int:
            headers = dict(line.split(": ") for line in lines)
            return httpx.post(f"{url}/echo", content=b" " * size, headers=headers, timeout=20).status_code

        stalled = [connect(url, head(100_000, *mine) + b" " * 99_000) for _ in range(16)]
        wait_for(lambda: post(99_000, mine) == 429)
        assert post(200_000, others) == 200
        for connection in stalled:
            connection.close()
        wait_for(lambda: post(400_000, mine) == 200)


def test_a_stranger_cannot_forge_its_address() -> None:
    with echoing(max_bodies_bytes=1_000_000, body_grace_seconds=20, trusted_proxies=("192.0.2.0/24",)) as url:
        names = [f"X-Forwarded-For: 198.51.100.{number}" for number in range(16)]
        stalled = [connect(url, head(100_000, name) + b" " * 99_000) for name in names]
        another = {"X-Forwarded-For": "203.0.113.1"}
        wait_for(lambda: httpx.post(f"{url}/echo", content=b" " * 99_000, headers=another).status_code == 429)
        for connection in stalled:
            connection.close()
