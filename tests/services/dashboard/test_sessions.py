from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from headmap.http.server import Server
from headmap.settings import Settings
from services.dashboard.sessions import SESSION_COOKIE, Sessions
from tests.services.dashboard.conftest import KEY, OURS, dashboard


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_when_it_is_not_used() -> None:
    clock = Clock()
    sessions = Sessions(idle_seconds=10, clock=clock)
    first = sessions.open(SecretStr("a"))
    clock.now = 9
    assert sessions.key(first) == SecretStr("a")
    clock.now = 18
    assert sessions.key(first) == SecretStr("a")
    clock.now = 29
    assert sessions.key(first) is None
    assert sessions.key(first) is None


def test_of_too_many_the_one_unused_longest_goes() -> None:
    sessions = Sessions(most=2)
    first, second = sessions.open(SecretStr("a")), sessions.open(SecretStr("b"))
    sessions.key(first)
    third = sessions.open(SecretStr("c"))
    assert [sessions.key(one) is not None for one in (first, second, third)] == [True, False, True]


@pytest.mark.parametrize("session_id", [None, "", "made-up"])
def test_an_unknown_session_has_no_key(session_id: str | None) -> None:
    sessions = Sessions()
    sessions.open(SecretStr("a"))
    sessions.close(session_id)
    assert sessions.key(session_id) is None


def test_a_key_is_checked_and_then_carried_by_calls(client: TestClient) -> None:
    assert client.get("/dashboard/api/maps").status_code == 401
    response = client.post("/dashboard/session", json={"key": KEY})
    assert response.json() == {"has_key": True}
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert KEY not in cookie
    assert client.get("/dashboard/api/maps").status_code == 200
    assert client.get("/dashboard/session").json() == {"has_key": True}


def test_a_wrong_key_opens_no_session(client: TestClient) -> None:
    response = client.post("/dashboard/session", json={"key": "wrong"})
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert SESSION_COOKIE not in response.cookies
    assert client.get("/dashboard/session").json() == {"has_key": False}


def test_a_forgotten_key_is_carried_no_more(known: TestClient) -> None:
    session_id = known.cookies[SESSION_COOKIE]
    known.delete("/dashboard/session")
    known.cookies.set(SESSION_COOKIE, session_id)
    assert known.get("/dashboard/api/maps").status_code == 401


@pytest.mark.parametrize(("proxy", "secure"), [("192.0.2.1", True), ("192.0.2.2", False)])
def test_behind_a_trusted_proxy_with_https_the_cookie_is_for_https_alone(
    scoring: FastAPI, proxy: str, secure: bool
) -> None:
    """In the application as `headmap up` and the dashboard's process serve it."""
    server = Server(dashboard(httpx.ASGITransport(scoring)), Settings(trusted_proxies=("192.0.2.1",)))
    server.config.load()
    headers = {**OURS, "X-Forwarded-Proto": "https"}
    with TestClient(server.config.loaded_app, headers=headers, client=(proxy, 1)) as client:
        response = client.post("/dashboard/session", json={"key": KEY})
    assert ("secure" in response.headers["set-cookie"].lower()) is secure


def test_over_https_itself_too(scoring: FastAPI) -> None:
    app = dashboard(httpx.ASGITransport(scoring))
    with TestClient(app, base_url="https://testserver", headers=OURS) as client:
        response = client.post("/dashboard/session", json={"key": KEY})
    assert "secure" in response.headers["set-cookie"].lower()


def test_a_key_that_cannot_be_checked_is_not_taken() -> None:
    async def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with TestClient(dashboard(httpx.MockTransport(away)), headers=OURS) as client:
        response = client.post("/dashboard/session", json={"key": KEY})
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert client.get("/dashboard/session").json() == {"has_key": False}


def test_no_key_is_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    secret = "a-key-that-nobody-has"
    with caplog.at_level(logging.DEBUG):
        client.post("/dashboard/session", json={"key": secret})
        client.post("/dashboard/session", json={"key": secret * 100})
        client.get("/dashboard/api/maps")
    assert caplog.records
    assert secret not in caplog.text


def test_other_sites_cannot_call(scoring: object, client: TestClient) -> None:
    for method, path in (
        ("POST", "/dashboard/session"),
        ("POST", "/dashboard/api/score"),
        ("DELETE", "/dashboard/api/score/x"),
    ):
        response = client.request(method, path, json={"key": KEY}, headers={"X-Requested-With": "other"})
        assert (response.status_code, response.json()["param"]) == (422, "X-Requested-With")


@pytest.mark.parametrize("key", ["ключ", "é", "two words", "\x00", "a\nb", " "])
def test_a_key_that_fits_no_header_is_refused(client: TestClient, key: str) -> None:
    response = client.post("/dashboard/session", json={"key": key})
    assert (response.status_code, response.json()["param"]) == (422, "key")
    assert key.strip() not in response.json()["detail"] or not key.strip()


def test_blanks_around_a_key_say_nothing(client: TestClient) -> None:
    assert client.post("/dashboard/session", json={"key": f" {KEY}\n"}).status_code == 200


def test_a_session_takes_small_bodies_only(client: TestClient) -> None:
    response = client.post("/dashboard/session", content=b" " * 20_000, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
