"""What the command line's HTTP client makes of answers that no Headmap gives, of addresses and of keys."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headmap import errors
from headmap.errors import (
    ClusterUnavailable,
    Forbidden,
    HeadmapError,
    InvalidParameter,
    MapNotFound,
    QueueFull,
    RegistryUnavailable,
    ShuttingDown,
    Unauthorized,
    error_of,
)
from services.cli.remote.calls import follow_job
from services.cli.remote.client import Client, find_key
from services.scoring.schemas import JobBody

URL, KEY = "http://cluster.example:8000", "headmap-secret"

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, key: str | None = KEY) -> Client:
    return Client(URL, key, httpx.MockTransport(answer))


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"title": "t", "status": status, "detail": "told", "code": code})


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (problem(404, "map_not_found"), MapNotFound, "told"),
        (problem(429, "queue_full"), QueueFull, "told"),
        (problem(503, "registry_unavailable"), RegistryUnavailable, "told"),
        (problem(401, "unauthorized"), Unauthorized, "does not know your API key; give another in HEADMAP_KEY"),
        (problem(403, "forbidden"), Forbidden, "told; give another key in HEADMAP_KEY"),
        (problem(418, "of_a_later_version"), HeadmapError, "told"),
        (httpx.Response(404, json={"error": {"message": "told", "code": "map_not_found"}}), MapNotFound, "told"),
        (
            httpx.Response(301, headers={"Location": "https://else.example/"}),
            ClusterUnavailable,
            "https://else.example/",
        ),
        (httpx.Response(200, html="<html>"), ClusterUnavailable, "as no Headmap does (status 200, text/html"),
        (httpx.Response(502, html="<html>"), ClusterUnavailable, "as no Headmap does (status 502"),
        (httpx.Response(404, text="[]"), ClusterUnavailable, "as no Headmap does (status 404"),
        (httpx.Response(200, json={"items": [{"a": 1}]}), ClusterUnavailable, "another version"),
        (httpx.Response(200, json={}), ClusterUnavailable, "another version"),
        (httpx.Response(200, json=3), ClusterUnavailable, "as no Headmap does"),
    ],
)
def test_each_answer_that_is_no_success_is_an_error_of_ours(
    answer: httpx.Response, kind: type[HeadmapError], words: str
) -> None:
    with pytest.raises(HeadmapError) as found:
        client(lambda request: answer).items(JobBody, "/score")
    assert type(found.value) is kind
    assert words in found.value.detail
    assert "\n" not in found.value.detail
    assert KEY not in found.value.detail


@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        (httpx.ConnectError("no route to host"), None, "cannot be reached (no route to host)"),
        (httpx.ConnectError("x"), ssl.SSLCertVerificationError(1, "self-signed"), "not trusted"),
        (httpx.ConnectError("x"), ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "is it http://"),
        (httpx.ReadTimeout("x"), None, "no answer in time"),
        (httpx.RemoteProtocolError("disconnected"), None, "broke off, or speaks no HTTP"),
        (httpx.ReadError(""), None, "the connection failed (ReadError)"),
    ],
)
def test_each_fault_on_the_way_is_told(fault: Exception, cause: Exception | None, words: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise fault from cause

    with pytest.raises(ClusterUnavailable, match=re.escape(words)) as found:
        client(answer).call("GET", "/maps")
    assert found.value.detail.startswith(URL)


def test_a_port_where_nobody_listens_cannot_be_reached() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = Client(f"http://127.0.0.1:{unused.getsockname()[1]}", None)
        with pytest.raises(ClusterUnavailable, match="cannot be reached"):
            nobody.call("GET", "/maps")
        nobody.close()


def test_the_key_is_in_the_header_alone_and_goes_nowhere_else() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(307, headers={"Location": "http://evil.example/"})

    with pytest.raises(ClusterUnavailable):
        client(answer, "clé").call("POST", "/maps", body={"a": 1})
    (request,) = asked
    assert request.headers.raw.count((b"Authorization", "Bearer clé".encode())) == 1
    assert str(request.url) == f"{URL}/maps"


def test_no_key_is_said_to_be_missing() -> None:
    with pytest.raises(Unauthorized, match="asks for an API key; give one in HEADMAP_KEY"):
        client(lambda request: problem(401, "unauthorized"), None).call("GET", "/maps")


@pytest.mark.parametrize(
    "url", ["cluster:8000", "ftp://h", "http://", "http://h:0", "http://h:x", "http://h/?a=1", "h h"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter, match="HEADMAP_URL"):
        Client(url, None)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidParameter) as found:
        Client("https://user:hush@host", None)
    assert "hush" not in found.value.detail


def test_an_address_may_have_a_path_before_ours() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(204)

    Client(f"{URL}/headmap/", None, httpx.MockTransport(answer)).call("GET", "/maps")
    assert asked == [f"{URL}/headmap/maps"]


@pytest.mark.parametrize(
    ("variables", "found"),
    [({}, None), ({"HEADMAP_KEY": " "}, None), ({"HEADMAP_KEY": " k "}, "k")],
)
def test_a_key_may_be_given_or_not(variables: dict[str, str], found: str | None) -> None:
    assert find_key(variables) == found


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [("k", 0o644, "chmod 600"), ("k", 0o620, "chmod 600"), (" \n", 0o600, "is empty"), ("a\nb", 0o600, "line break")],
)
def test_a_file_of_a_key_that_cannot_be_one_is_refused(tmp_path: Path, content: str, mode: int, words: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(InvalidParameter, match=words) as found:
        find_key({"HEADMAP_KEY_FILE": str(path)})
    assert str(path) in found.value.detail


def test_a_key_and_a_file_of_one_contradict_and_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="both set"):
        find_key({"HEADMAP_KEY": "k", "HEADMAP_KEY_FILE": "f"})
    with pytest.raises(InvalidParameter, match="No such file"):
        find_key({"HEADMAP_KEY_FILE": str(tmp_path / "none")})


# ---- following


def job(state: str, done: int) -> dict[str, Any]:
    params = {"dataset": "synthetic", "pages": 4, "rule": "aligned", "seed": 0, "max_new_tokens": 1}
    times = {"created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None}
    return {
        "id": "j", "state": state, "model": "m", "revision": "r", "params": params, "map_id": None, "error": None,
        "progress": {"done": done, "total": 4}, "attempts": 1, **times,
    }  # fmt: skip


def events(*bodies: object, name: str = "") -> httpx.Response:
    head = f"event: {name}\r\n" if name else ""
    text = ": ping\r\n\r\n" + "".join(f"{head}id: x\r\ndata: {json.dumps(body)}\r\n\r\n" for body in bodies)
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


def followed(*answers: httpx.Response | Exception) -> list[int]:
    left: Iterator[httpx.Response | Exception] = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    first = JobBody.model_validate(job("queued", 0))
    return [one.progress.done for one in follow_job(client(answer), first, pause=lambda seconds: None)]


def test_a_job_is_followed_over_whatever_comes_between() -> None:
    broken = events(ShuttingDown("bye").problem(), name="error")
    assert followed(
        events(job("running", 1)),  # ends before the job does
        httpx.ConnectError("away"),
        broken,
        problem(429, "queue_full"),
        problem(503, "registry_unavailable"),
        events(job("running", 2), job("succeeded", 4)),
    ) == [0, 1, 2, 4]


def test_a_job_that_is_gone_ends_it() -> None:
    with pytest.raises(HeadmapError) as found:
        followed(problem(404, "job_not_found"))
    assert found.value.code == "job_not_found"


def test_every_error_of_the_tree_comes_back_by_its_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and "code" in vars(kind)]
    assert len(kinds) > 50
    for kind in kinds:
        if kind is not HeadmapError:
            assert type(error_of(kind.code, "told")) is kind
