"""Datasets over HTTP: one test an outcome."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from headmap.datasets.sources import BUILT_IN
from headmap.registry.session import Database
from headmap.registry.tables import Dataset, DatasetPack
from headmap.settings import DEMO_MODEL, Settings
from services.scoring.deps import UPLOADS_AT_ONCE
from tests.live import live
from tests.services.scoring.problems import assert_problem
from tests.shared.datasets.archives import as_tar, as_tar_gz, as_zip, files, zip_link

Start = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", shard_pages=4, max_body_bytes=1000, max_dataset_bytes=500_000)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, to see that none stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def send(client: TestClient, data: bytes, name: str = "mine") -> Any:
    return client.post("/datasets", params={"name": name}, content=data)


def nothing_left(database: Database, temporary: Path) -> bool:
    with database.read() as session:
        rows = sum(session.scalar(select(func.count()).select_from(table)) or 0 for table in (Dataset, DatasetPack))
    blobs = temporary.with_name("data") / "blobs"
    return rows == 0 and not list(temporary.iterdir()) and not list(blobs.glob("*/*"))


@pytest.mark.parametrize("pack", [as_zip, as_tar, as_tar_gz])
def test_an_upload_answers_201_with_the_dataset_and_its_place(client: TestClient, pack: Any, temporary: Path) -> None:
    response = send(client, pack(files(2)))
    assert response.status_code == 201, response.text
    body = response.json()
    assert response.headers["location"] == "/datasets/mine"
    assert (body["name"], body["kind"], body["pages"], body["questions"]) == ("mine", "uploaded", 2, 8)
    assert body["words"] > 10
    assert body["bytes"] > 1000, "more than other bodies may have"
    assert len(body["checksum"]) == 64
    assert client.get("/datasets/mine").json() == body
    assert client.get("/datasets").json()["items"] == [body]
    assert not list(temporary.iterdir())


def test_a_form_does_as_well(client: TestClient, temporary: Path) -> None:
    response = client.post("/datasets", data={"name": "mine"}, files={"file": ("pages.zip", as_zip(files()))})
    assert response.status_code == 201, response.text
    assert response.json()["name"] == "mine"
    again = client.post("/datasets?name=other", files={"file": ("pages.zip", as_zip(files()))})
    assert again.json()["name"] == "other"
    assert not list(temporary.iterdir())


def test_the_same_pages_again_answer_200(client: TestClient) -> None:
    first, again = send(client, as_zip(files())), send(client, as_tar_gz(files(folder="pages/")))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


def test_other_pages_under_the_name_are_a_conflict(client: TestClient) -> None:
    send(client, as_zip(files(2)))
    assert_problem(send(client, as_zip(files(3))), 409, "dataset_exists", "'mine'")
    assert client.get("/datasets/mine").json()["pages"] == 2


def test_a_built_in_name_is_a_conflict(client: TestClient) -> None:
    assert_problem(send(client, as_zip(files()), "synthetic"), 409, "dataset_built_in", "'synthetic'")
    form = client.post("/datasets", data={"name": "forms"}, files={"file": ("pages.zip", as_zip(files()))})
    assert_problem(form, 409, "dataset_built_in", "'forms'")
    assert_problem(client.delete("/datasets/synthdog-en"), 409, "dataset_built_in", "'synthdog-en'")


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 65])
def test_a_bad_name_is_refused(client: TestClient, name: str) -> None:
    assert_problem(send(client, as_zip(files()), name), 422, "invalid_parameter", "name")
    form = client.post("/datasets", data={"name": name}, files={"file": ("pages.zip", as_zip(files()))})
    assert_problem(form, 422, "invalid_parameter", "name")


def test_a_missing_name_or_file_is_refused(client: TestClient) -> None:
    assert_problem(client.post("/datasets", content=as_zip(files())), 422, "invalid_parameter", "name: missing")
    form = client.post("/datasets?name=mine", files={"archive": ("pages.zip", as_zip(files()))})
    assert_problem(form, 422, "invalid_parameter", "file: missing")
    form = client.post("/datasets?name=mine", data={"file": "text"}, files={"other": ("a", b"b")})
    assert_problem(form, 422, "invalid_parameter", "file: missing")


@pytest.mark.parametrize(
    ("make", "status", "code", "named"),
    [
        (lambda: as_zip(files() | {"../up.png": b"1"}), 422, "invalid_dataset", "'../up.png' lies outside"),
        (lambda: as_zip(files() | {"/etc/up.png": b"1"}), 422, "invalid_dataset", "'/etc/up.png' lies outside"),
        (lambda: as_zip(files(), zip_link("link.png", "/etc/passwd")), 422, "invalid_dataset", "is not a plain file"),
        (lambda: as_zip({"pages.jsonl": b"{}", "0.png": bytes(20_000_000)}), 413, "dataset_too_large", "unpacked"),
        (lambda: as_tar_gz({"0.png": bytes(120_000_000)}), 413, "dataset_too_large", "unpacked"),
        (lambda: bytes(500_001), 413, "payload_too_large", "500000 bytes"),
        (lambda: as_zip(files(words=[{"text": "A"}])), 422, "invalid_dataset", "words[0]: field 'box' is missing"),
        (lambda: as_zip(files(words=[{"text": "A", "box": [0, 0, 9, 99999]}])), 422, "invalid_dataset", "inside"),
        (lambda: as_zip(files() | {"0000.png": b"none"}), 422, "invalid_dataset", "'0000.png': is not a readable PNG"),
        (lambda: as_zip(files() | {"more.png": b"none"}), 422, "invalid_dataset", "jsonl names 'more.png'"),
        (lambda: as_zip({"a": b"b"}), 422, "invalid_dataset", "pages.jsonl"),
        (lambda: b"hello", 422, "invalid_dataset", "is not a zip, tar or tar.gz file"),
        (lambda: b"", 422, "invalid_dataset", "archive"),
        (lambda: as_zip(files())[:-100], 422, "invalid_dataset", "archive"),
    ],
    ids=[
        "traversal", "absolute", "link", "zip bomb", "gzip bomb", "large body", "missing field", "box outside",
        "no picture", "stray file", "no index", "no archive", "empty", "cut short",
    ],
)  # fmt: skip
def test_a_wrong_archive_is_refused_and_leaves_nothing(
    client: TestClient,
    database: Database,
    temporary: Path,
    make: Callable[[], bytes],
    status: int,
    code: str,
    named: str,
) -> None:
    data = make()
    assert_problem(send(client, data), status, code, named)
    assert nothing_left(database, temporary)
    form = client.post("/datasets", data={"name": "mine"}, files={"file": ("pages.zip", data)})
    assert_problem(form, status, code, named)
    assert nothing_left(database, temporary)


def test_a_blob_store_away_is_told_and_nothing_kept(app: FastAPI, client: TestClient, database: Database) -> None:
    state = app.state.scoring
    (state.settings.data_dir / "file").touch()
    nowhere = state.settings.model_copy(update={"blob_url": f"file://{state.settings.data_dir}/file/blobs"})
    app.state.scoring = replace(state, settings=nowhere)
    assert_problem(send(client, as_zip(files())), 503, "dataset_unavailable", "blob store")
    assert client.get("/datasets").json()["items"] == []
    app.state.scoring = state
    assert send(client, as_zip(files())).status_code == 201


def test_a_large_body_without_its_length_is_refused(client: TestClient, database: Database, temporary: Path) -> None:
    response = client.post("/datasets?name=mine", content=iter([bytes(300_000)] * 3))
    assert_problem(response, 413, "payload_too_large", "500000 bytes")
    assert nothing_left(database, temporary)


def test_uploads_beyond_what_goes_at_once_are_told_to_return(client: TestClient, app: FastAPI) -> None:
    state = app.state.scoring
    app.state.scoring = replace(state, uploads=asyncio.Semaphore(0))
    refused = send(client, as_zip(files()))
    assert_problem(refused, 429, "queue_full", "uploads are under way")
    assert int(refused.headers["retry-after"]) > 0
    app.state.scoring = state
    for _ in range(UPLOADS_AT_ONCE + 1):
        assert send(client, b"wrong").status_code == 422
    assert send(client, as_zip(files())).status_code == 201, "a place is given back, also by an upload that failed"


def test_uploads_that_stall_hold_no_place(app: FastAPI) -> None:
    with live(app) as url:
        place = urlsplit(url)
        head = b"POST /datasets?name=slow HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\nPK"
        slow = [socket.create_connection((place.hostname, place.port), timeout=10) for _ in range(UPLOADS_AT_ONCE + 2)]
        for connection in slow:
            connection.sendall(head)
        answer = httpx.post(f"{url}/datasets", params={"name": "mine"}, content=as_zip(files()), timeout=20)
        assert answer.status_code == 201
        for connection in slow:
            connection.close()


def test_the_list_has_built_in_ones_and_goes_on_by_its_cursor(client: TestClient) -> None:
    for count in (1, 2, 3):
        send(client, as_zip(files(count)), f"set-{count}")
    first = client.get("/datasets", params={"limit": 2}).json()
    rest = client.get("/datasets", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["name"] for one in first["items"] + rest["items"]] == ["set-3", "set-2", "set-1"]
    assert rest["next_cursor"] is None
    assert [one["name"] for one in first["built_in"]] == list(BUILT_IN)
    assert client.get("/datasets/receipts").json() == first["built_in"][list(BUILT_IN).index("receipts")]


def test_an_unknown_dataset_is_not_found(client: TestClient) -> None:
    assert_problem(client.get("/datasets/nope"), 404, "dataset_not_found", "'nope'")
    assert_problem(client.delete("/datasets/nope"), 404, "dataset_not_found", "'nope'")


def test_removed_is_gone(client: TestClient, database: Database, temporary: Path) -> None:
    send(client, as_zip(files()))
    assert client.delete("/datasets/mine").status_code == 204
    assert_problem(client.get("/datasets/mine"), 404, "dataset_not_found", "'mine'")
    assert nothing_left(database, temporary)


# ---- jobs on datasets


def test_a_job_reads_an_upload_all_of_it_unless_told(client: TestClient) -> None:
    uploaded = send(client, as_zip(files(3))).json()
    job = client.post("/score", json={"model": DEMO_MODEL, "dataset": "mine"})
    assert job.status_code == 202, job.text
    params = job.json()["params"]
    assert (params["dataset"], params["pages"], params["dataset_checksum"]) == ("mine", 3, uploaded["checksum"])
    equal = client.post("/score", json={"model": DEMO_MODEL, "dataset": "mine", "pages": 3})
    assert (equal.status_code, equal.json()["id"]) == (200, job.json()["id"])


def test_a_job_that_decides_by_itself_stays_within_an_upload(client: TestClient) -> None:
    send(client, as_zip(files(3)))
    body = {"model": DEMO_MODEL, "dataset": "mine", "pages": "auto"}
    params = client.post("/score", json=body).json()["params"]
    assert (params["pages"], params["min_pages"], params["max_pages"]) == ("auto", 3, 3)
    refused = client.post("/score", json=body | {"max_pages": 4})
    assert_problem(refused, 422, "invalid_parameter", "max_pages: the dataset has 3 pages, got 4")


def test_more_pages_than_there_are_are_refused(client: TestClient) -> None:
    send(client, as_zip(files(3)))
    response = client.post("/score", json={"model": DEMO_MODEL, "dataset": "mine", "pages": 4})
    assert_problem(response, 422, "invalid_parameter", "pages: the dataset has 3 pages, got 4")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_job_names_a_built_in_dataset(client: TestClient, name: str) -> None:
    job = client.post("/score", json={"model": DEMO_MODEL, "dataset": name})
    assert job.status_code == 202
    assert (job.json()["params"]["dataset"], job.json()["params"]["pages"]) == (name, 1000)


def test_a_dataset_is_not_removed_under_a_job(client: TestClient) -> None:
    send(client, as_zip(files()))
    job = client.post("/score", json={"model": DEMO_MODEL, "dataset": "mine"}).json()
    assert_problem(client.delete("/datasets/mine"), 409, "dataset_in_use", job["id"])
    client.delete(f"/score/{job['id']}")
    assert client.delete("/datasets/mine").status_code == 204
