from __future__ import annotations

import base64
import logging

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from headmap.http.server import Server
from headmap.settings import Settings
from services.dashboard.app import create_app
from services.dashboard.sessions import SESSION_COOKIE, SESSION_SECONDS, Sessions
from tests.services.dashboard.conftest import ADDRESSES, KEY, OURS, dashboard

SECRET = SecretStr("0123456789abcdef0123456789abcdef")


def test_a_session_ends_twelve_hours_after_it_began() -> None:
    now = 1_800_000_000.0
    cookie = Sessions(SECRET, clock=lambda: now).open(SecretStr("a"))
    assert Sessions(SECRET, clock=lambda: now + SESSION_SECONDS).key(cookie) == SecretStr("a")
    assert Sessions(SECRET, clock=lambda: now + SESSION_SECONDS + 1).key(cookie) is None


def test_replicas_with_one_secret_share_their_sessions() -> None:
    cookie = Sessions(SECRET).open(SecretStr("a"))
    assert Sessions(SECRET).key(cookie) == SecretStr("a")
    for other in (Sessions(SecretStr("f" * 32)), Sessions(), Sessions()):
        assert other.key(cookie) is None


def test_the_cookie_hides_the_key_and_is_another_each_time() -> None:
    sessions, key = Sessions(SECRET), "a-key-of-somebody"
    cookies = {sessions.open(SecretStr(key)) for _ in range(2)}
    assert len(cookies) == 2
    for cookie in cookies:
        assert key.encode() not in base64.urlsafe_b64decode(cookie)


def test_what_is_no_session_of_ours_has_no_key() -> None:
    sessions = Sessions()
    cookie = sessions.open(SecretStr("a"))
    changed = [cookie[:place] + ("A" if cookie[place] != "A" else "B") + cookie[place + 1 :] for place in range(60)]
    for one in (None, "", "made-up", "\u00e9", cookie[:-8], *changed):
        assert sessions.key(one) is None, one


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
    known.delete("/dashboard/session")
    assert SESSION_COOKIE not in known.cookies
    assert known.get("/dashboard/api/maps").status_code == 401


def test_a_session_goes_on_at_another_replica(scoring: FastAPI) -> None:
    settings = Settings(dashboard_secret=SECRET)
    replicas = [create_app(settings, ADDRESSES, transport=httpx.ASGITransport(scoring)) for _ in range(2)]
    with TestClient(replicas[0], headers=OURS) as first, TestClient(replicas[1], headers=OURS) as second:
        first.post("/dashboard/session", json={"key": KEY})
        second.cookies.update(first.cookies)
        assert second.get("/dashboard/api/maps").status_code == 200


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
