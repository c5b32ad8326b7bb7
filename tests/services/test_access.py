"""Who may call either service, how much, and what every answer carries: keys, limits, headers, CORS."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from headmap.http.auth import SCOPES, needed_scope
from headmap.http.logs import JsonFormatter
from headmap.keys import Scope
from headmap.registry.keys import create_key, revoke_key
from headmap.registry.session import Database
from headmap.settings import Settings
from services.inference.http.app import create_app as create_inference
from services.scoring.app import create_app as create_scoring
from tests.services.inference.fakes import FakeModels
from tests.shared.jobs.fakes import CountingBroker

CREATE: dict[str, Callable[[Settings], FastAPI]] = {
    "scoring": lambda settings: create_scoring(settings, broker=CountingBroker()),
    "inference": lambda settings: create_inference(settings, open_model=FakeModels()),
}
CALL = {"scoring": "/maps", "inference": "/v1/models"}

Start = Callable[..., TestClient]


@pytest.fixture(params=sorted(CREATE))
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def path(service: str) -> str:
    return CALL[service]


@pytest.fixture
def start(service: str, tmp_path: Path, database: Database) -> Iterator[Start]:
    """Start the service with some settings; looks for keys at each call."""
    opened: list[TestClient] = []

    def begin(**given: object) -> TestClient:
        settings = Settings(data_dir=tmp_path, key_refresh_seconds=1e-9, **given)  # type: ignore[arg-type]
        opened.append(TestClient(CREATE[service](settings), raise_server_exceptions=False))
        return opened[-1].__enter__()

    yield begin
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def database(tmp_path: Path, migrated: Callable[[Settings], None]) -> Iterator[Database]:
    settings = Settings(data_dir=tmp_path)
    migrated(settings)
    database = Database(settings.sql_url)
    yield database
    database.close()


def make_key(database: Database, name: str = "ci", *scopes: Scope, **limits: int) -> str:
    with database.write() as session:
        return create_key(session, name, scopes=frozenset(scopes or Scope), **limits)[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# ---- keys


def test_a_key_of_the_registry_lets_in_from_when_it_is_made_to_when_it_is_revoked(
    start: Start, path: str, database: Database
) -> None:
    client = start()
    assert client.get(path).status_code == 200
    first, second = make_key(database, "first"), make_key(database, "second")
    assert client.get(path).status_code == 401
    assert client.get(path, headers=bearer(first)).status_code == 200
    with database.write() as session:
        revoke_key(session, "first")
    assert client.get(path, headers=bearer(first)).status_code == 401
    assert client.get(path, headers=bearer(second)).status_code == 200
    assert client.get("/health").status_code == 200


def test_a_key_in_the_url_is_no_key(start: Start, path: str, database: Database) -> None:
    key = make_key(database)
    client = start()
    for query in ("key", "api_key", "access_token", "token", "authorization"):
        assert client.get(path, params={query: key}).status_code == 401


def test_keys_count_while_the_registry_is_away(start: Start, service: str, path: str, database: Database) -> None:
    key = make_key(database)
    client = start()
    assert client.get(path, headers=bearer(key)).status_code == 200
    with database.write() as session:
        session.execute(text("ALTER TABLE api_keys RENAME TO elsewhere"))
    for _ in range(3):
        assert client.get(path, headers=bearer(key)).status_code == 200
        assert client.get(path).status_code == 401


def test_the_log_names_the_key_and_never_shows_it(
    start: Start, path: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    key = make_key(database, "ci")
    client = start()
    with caplog.at_level(logging.DEBUG):
        client.get(path, headers=bearer(key))
        client.get(path, headers=bearer(f"{key}-wrong"))
    lines = [JsonFormatter("test").format(record) for record in caplog.records]
    assert key not in "\n".join(lines)
    requests = [json.loads(line) for line in lines if '"message": "request"' in line]
    assert [(one["status"], one["key"]) for one in requests] == [(200, "ci"), (401, None)]


def test_the_document_asks_for_a_key_where_one_is_needed(start: Start, path: str, database: Database) -> None:
    client = start()
    assert "security" not in client.get("/openapi.json").json()["paths"][path]["get"]
    key = make_key(database)
    operation = client.get("/openapi.json", headers=bearer(key)).json()["paths"][path]["get"]
    assert operation["security"] == [{"key": []}]
    assert {"401", "429"} <= set(operation["responses"])


@pytest.mark.parametrize("key", ["plain", "zwölf"])
def test_only_one_header_with_one_whole_key_lets_in(start: Start, path: str, key: str) -> None:
    client = start(api_keys=("first", key))

    def status(*values: bytes) -> int:
        return client.get(path, headers=[(b"Authorization", value) for value in values]).status_code

    given = key.encode()
    for value in (b"Bearer " + given, b"bearer " + given, b"BEARER  " + given, b"Bearer " + key.encode("latin-1")):
        assert status(value) == 200, value
    refused = (b"", b" ", b"Bearer", b"Bearer ", b"Bearer Bearer " + given, b"Bearer\t" + given, b"Basic " + given)
    for value in (*refused, given, b"Bearer first " + given, b"Bearer first, Bearer " + given, b"Bearer \xff\xfe"):
        assert status(value) == 401, value
    assert status() == 401
    assert status(b"Bearer " + given, b"Bearer " + given) == 401
    assert status(b"", b"Bearer " + given) == 401


# ---- scopes


def changing(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and path of each route that does not only read, as the OpenAPI document has them."""
    for path, item in app.openapi()["paths"].items():
        yield from ((method.upper(), path) for method in item if method != "get")


def test_each_route_asks_for_the_scope_of_its_row_and_says_so(start: Start, database: Database) -> None:
    keys = {scope: make_key(database, scope.value, scope) for scope in Scope}
    client = start()
    app: FastAPI = client.app  # type: ignore[assignment]
    routes = list(changing(app))
    assert len(routes) > 5
    document = client.get("/openapi.json", headers=bearer(keys[Scope.INFER])).json()
    for method, path in routes:
        needed = SCOPES[path.split("/")[1]][method]  # a route without a row is a KeyError: decide what it needs
        assert document["paths"][path][method.lower()]["security"] == [{"key": [needed.value]}]
        assert needed.value in document["paths"][path][method.lower()]["responses"]["403"]["description"]
        for scope, key in keys.items():
            answer = client.request(method, re.sub(r"{.*?}", "x", path), json={}, headers=bearer(key))
            assert (answer.status_code == 403) == (scope not in (needed, Scope.ADMIN)), (method, path, scope)


@pytest.mark.parametrize(
    "call",
    [
        "PUT /maps/x/aliases/default",
        "DELETE /maps/x/aliases/default",
        "DELETE /maps/x",
        "DELETE /datasets/x",
        "PUT /policies/a/b/c",
        "DELETE /policies/a/b/c",
        "POST /policies",
        "DELETE /generate",
        "CONNECT /v1/x",
    ],
)
def test_what_changes_how_others_are_served_needs_admin(call: str) -> None:
    assert needed_scope(*call.split()) is Scope.ADMIN


def test_a_key_that_may_not_is_told_the_scope_it_lacks(start: Start, service: str, database: Database) -> None:
    client, key = start(), make_key(database, "ci", Scope.SCORE if service == "inference" else Scope.INFER)
    has, lacks = ("score", "infer") if service == "inference" else ("infer", "score")
    told = f"needs a key with the scope {lacks}; API key 'ci' has {has}"
    if service == "inference":
        error = client.post("/v1/chat/completions", json={}, headers=bearer(key)).json()["error"]
        assert (error["type"], error["code"]) == ("permission_error", "forbidden")
        assert error["message"] == f"POST /v1/chat/completions {told}"
    path = "/generate" if service == "inference" else "/score"
    refused = client.post(path, json={}, headers=bearer(key))
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    assert (refused.json()["code"], refused.json()["detail"]) == ("forbidden", f"POST {path} {told}")


def test_any_key_may_read_and_a_way_that_nobody_wrote_down_needs_admin(
    start: Start, path: str, database: Database
) -> None:
    client, key = start(), make_key(database, "ci", Scope.INFER)
    for method in ("GET", "HEAD"):
        assert client.request(method, path, headers=bearer(key)).status_code == 200
    assert client.get("/metrics", headers=bearer(key)).status_code == 200
    for other in ("/elsewhere", "/elsewhere/generate", "//generate/x", "/Generate", "/docs"):
        assert client.patch(other, headers=bearer(key)).status_code == 403, other
    assert client.patch("/elsewhere", headers=bearer(make_key(database, "root", Scope.ADMIN))).status_code == 404


def test_keys_of_the_settings_may_what_they_say(start: Start, service: str) -> None:
    client = start(api_keys=("all", {"key": "narrow", "scopes": ["score" if service == "inference" else "infer"]}))
    target = "/generate" if service == "inference" else "/score"
    assert client.post(target, json={}, headers=bearer("all")).status_code == 422
    assert client.post(target, json={}, headers=bearer("narrow")).status_code == 403


def test_who_may_move_no_alias_may_not_move_one_by_a_job_or_an_import(tmp_path: Path, database: Database) -> None:
    key = make_key(database, "ci", Scope.SCORE)
    body = {"model": "m", "num_kv_heads": 1, "scores": {"0-0": 1}}
    with TestClient(CREATE["scoring"](Settings(data_dir=tmp_path))) as client:
        for path, one in (("/maps", body), ("/score", {"model": "headmap/demo-ocr", "pages": 1})):
            refused = client.post(path, json={**one, "promote": True}, headers=bearer(key))
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
            assert client.post(path, json=one, headers=bearer(key)).is_success


def test_an_open_server_asks_for_no_scope(start: Start, service: str) -> None:
    answer = start().post("/generate" if service == "inference" else "/score", json={})
    assert answer.status_code == 422


# ---- limits


def test_more_than_a_keys_share_gets_429_and_when_to_come_back(start: Start, path: str, database: Database) -> None:
    key, other = make_key(database, "ci", requests_per_minute=2), make_key(database, "other")
    client = start(key_requests_per_minute=50)
    assert [client.get(path, headers=bearer(key)).status_code for _ in range(3)] == [200, 200, 429]
    refused = client.get(path, headers=bearer(key))
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    body = refused.json()
    assert body.get("error", body)["code"] == "rate_limited"
    assert client.get(path, headers=bearer(other)).status_code == 200
    assert client.get("/health", headers=bearer(key)).status_code == 200


# ---- what every answer carries


@pytest.mark.parametrize("where", ["ok", "unknown", "locked", "broken", "too large"])
def test_every_answer_carries_the_security_headers(
    service: str, tmp_path: Path, path: str, where: str, database: Database
) -> None:
    settings = Settings(data_dir=tmp_path, max_body_bytes=1000)
    app = CREATE[service](settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret of the inside")

    key = make_key(database) if where == "locked" else ""
    with TestClient(app, raise_server_exceptions=False) as client:
        if where == "too large":
            response = client.post("/generate" if service == "inference" else "/score", content=io.BytesIO(bytes(2000)))
        else:
            listing = "/score" if service == "scoring" else path  # maps may be kept: test_caching.py
            response = client.get({"unknown": "/no", "broken": "/broken"}.get(where, listing))
    assert response.status_code == {"ok": 200, "unknown": 404, "locked": 401, "broken": 500, "too large": 413}[where]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    assert "server" not in response.headers
    assert "secret" not in response.text
    assert not key or key not in response.text


def test_data_may_do_nothing_as_a_page_and_the_documentation_may(start: Start, path: str) -> None:
    client = start()
    assert "default-src 'none'" in client.get(path).headers["content-security-policy"]
    page = client.get("/docs")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "//" not in page.text
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(asset).status_code == 200, asset


def preflight(client: TestClient, path: str, origin: str) -> dict[str, str]:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    return dict(client.options(path, headers=asked).headers)


def test_other_sites_may_not_call_by_default(start: Start, path: str) -> None:
    client = start()
    assert "access-control-allow-origin" not in preflight(client, path, "https://app.example")
    assert "access-control-allow-origin" not in client.get(path, headers={"Origin": "https://app.example"}).headers


def test_origins_of_the_settings_may_call_with_their_key(start: Start, path: str, database: Database) -> None:
    key = make_key(database)
    client = start(cors_origins=("https://app.example",))
    allowed = preflight(client, path, "https://app.example")
    assert allowed["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in allowed
    assert "access-control-allow-origin" not in preflight(client, path, "https://evil.example")
    answer = client.get(path, headers={"Origin": "https://app.example", **bearer(key)})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_a_page_can_post_without_asking_first_is_refused(start: Start, service: str, kind: str) -> None:
    body = json.dumps({"model": "headmap/demo-ocr", "inputs": "x", "images": ["AAAA"]})
    target = "/generate" if service == "inference" else "/score"
    response = start().post(target, content=body, headers={"Content-Type": kind})
    assert response.status_code == 422
    assert "body" in response.json()["detail"]


UNASKED = (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "TEXT/PLAIN;a=b")
OTHERS = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "http://testserver:81"},
    {"Origin": "http://[testserver"},
    {"Origin": "http://testserver", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
)
OURS: tuple[dict[str, str], ...] = (
    {},  # curl, httpx
    {"Origin": "http://testserver"},
    {"Origin": "HTTPS://TestServer"},  # TLS ends in front
    {"Origin": "https://outside.example", "Sec-Fetch-Site": "same-origin"},  # a proxy in front names another Host
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"},
)


def test_whose_page_posts_decides_where_browsers_do_not_ask_first(start: Start, service: str) -> None:
    client = start(cors_origins=("https://app.example",))

    def status(path: str, kind: str | None, headers: dict[str, str]) -> int:
        given = headers if kind is None else {**headers, "Content-Type": kind}
        return client.post(path, content=b"x", headers=given).status_code

    paths = {"scoring": ("/datasets?name=mine", "/score", "/maps"), "inference": ("/generate", "/v1/responses", "/no")}
    for path in paths[service]:
        for kind in UNASKED:
            for headers in OTHERS:
                assert status(path, kind, headers) == 403, (path, kind, headers)
            for headers in OURS:
                assert status(path, kind, headers) != 403, (path, kind, headers)
        assert status(path, "application/json", OTHERS[0]) != 403  # a browser asks first, and CORS says no


def test_a_page_that_may_not_post_is_told_why(start: Start, database: Database) -> None:
    make_key(database)
    response = start().post("/score/", headers={"Origin": "https://evil.example", "Content-Type": "text/plain"})
    assert response.status_code == 403
    assert response.headers["x-content-type-options"] == "nosniff"
    body = response.json()
    assert body["code"] == "cross_site"
    assert "'https://evil.example' is not one of HEADMAP_CORS_ORIGINS" in body["detail"]
