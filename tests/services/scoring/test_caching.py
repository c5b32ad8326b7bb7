"""Answers about maps in caches, and transactions that end before the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from headmap.registry import maps
from headmap.registry.migrations import migrate
from headmap.registry.session import Database
from headmap.settings import Settings
from services.scoring.app import create_app
from tests.services.scoring.problems import assert_problem
from tests.shared.jobs.fakes import CountingBroker

Upload = Callable[..., dict[str, Any]]
NOBODY = "0" * 32
IMMUTABLE = [
    "/scores",
    "/scores?format=sparsemm",
    "/heads?limit=3",
    "/heatmap.svg",
    "/heatmap.png?view=kv_heads",
    "/compare/{id}",
    "/compare/{id}/scatter.svg",
]


@contextmanager
def queries(database: Database) -> Iterator[list[str]]:
    """The statements that the registry is asked."""
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(database.engine, "after_cursor_execute", note)
    yield asked
    event.remove(database.engine, "after_cursor_execute", note)


@pytest.mark.parametrize("part", IMMUTABLE)
def test_what_follows_from_a_map_alone_is_kept_for_a_year_and_not_made_twice(
    client: TestClient, database: Database, upload: Upload, part: str
) -> None:
    map_id = upload()["id"]
    path = f"/maps/{map_id}{part.format(id=map_id)}"
    first = client.get(path)
    assert first.status_code == 200, first.text
    assert first.headers["cache-control"] == "public, max-age=31536000, immutable"
    tag = first.headers["etag"]
    assert tag == client.get(path).headers["etag"]
    assert not tag.startswith("W/")
    for listed in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        with queries(database) as asked:
            again = client.get(path, headers={"If-None-Match": listed})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert not [statement for statement in asked if "maps.scores" in statement]
    other = client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_other_scores_and_other_questions_have_other_tags(client: TestClient, upload: Upload) -> None:
    one, two = upload(0)["id"], upload(1)["id"]
    paths = [f"/maps/{one}/scores", f"/maps/{two}/scores", f"/maps/{one}/scores?format=sparsemm", f"/maps/{one}/heads"]
    assert len({client.get(path).headers["etag"] for path in paths}) == len(paths)


def test_a_picture_and_its_json_have_other_tags(
    client: TestClient, start: Callable[..., dict[str, Any]], database: Database
) -> None:
    path = f"/maps/{profiled(client, start, database)}/heads/0/0/overlay"
    answers = [client.get(path, headers={"Accept": accept}) for accept in ("image/png", "application/json")]
    assert [answer.headers["content-type"] for answer in answers] == ["image/png", "application/json"]
    assert answers[0].headers["etag"] != answers[1].headers["etag"]
    assert answers[0].headers["vary"] == "Accept"


def test_a_map_is_asked_for_each_time_and_sent_when_it_has_changed(client: TestClient, upload: Upload) -> None:
    map_id = upload()["id"]
    for path in (f"/maps/{map_id}", f"/maps/{map_id}/budgets", f"/maps/{map_id}/export", "/maps"):
        first = client.get(path)
        assert first.headers["cache-control"] == "public, no-cache"
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    seen = client.get(f"/maps/{map_id}").headers["etag"]
    client.patch(f"/maps/{map_id}", json={"tags": ["prod"]})
    tagged = client.get(f"/maps/{map_id}", headers={"If-None-Match": seen})
    assert (tagged.status_code, tagged.json()["tags"]) == (200, ["prod"])
    client.put(f"/maps/{map_id}/aliases/stable")
    moved = client.get(f"/maps/{map_id}", headers={"If-None-Match": tagged.headers["etag"]})
    assert (moved.status_code, moved.json()["aliases"]) == (200, ["default", "stable"])


def test_no_shared_cache_keeps_what_needs_a_key(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, api_keys=(SecretStr("k" * 32),))
    migrate(settings)
    headers = {"Authorization": f"Bearer {'k' * 32}"}
    with TestClient(create_app(settings, broker=CountingBroker()), headers=headers) as client:
        body = {"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": 1}}
        path = f"/maps/{client.post('/maps', json=body).json()['id']}"
        assert client.get(path).headers["cache-control"] == "private, no-cache"
        scores = client.get(f"{path}/scores")
        assert scores.headers["cache-control"] == "private, max-age=31536000, immutable"
        asked = {"If-None-Match": scores.headers["etag"], "Authorization": "Bearer wrong"}
        assert client.get(f"{path}/scores", headers=asked).status_code == 401


def test_errors_are_not_kept(client: TestClient, upload: Upload) -> None:
    map_id = upload()["id"]
    for path in (f"/maps/{NOBODY}/scores", f"/maps/{map_id}/scores?format=csv", f"/maps/{map_id}/heads?limit=0"):
        answer = client.get(path, headers={"If-None-Match": '"x"'})
        assert answer.status_code in (404, 422)
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
    assert client.delete(f"/maps/{upload()['id']}").status_code == 204


def test_a_commit_that_fails_is_an_error_answer_and_leaves_nothing(
    client: TestClient, app: FastAPI, database: Database, upload: Upload
) -> None:
    upload()

    def fail(session: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(database.engine, "commit", fail)
    try:
        body = {"model": "a/b", "num_kv_heads": 1, "scores": {"0-0": 1}}
        assert_problem(client.post("/maps", json=body), 503, "registry_unavailable", "disk full")
    finally:
        event.remove(database.engine, "commit", fail)
    with database.read() as session:
        assert [record.model for record in maps.list_maps(session).items] == ["some/model"]


def test_a_write_is_committed_before_its_answer_and_rolled_back_when_the_route_fails(
    client: TestClient, database: Database, upload: Upload
) -> None:
    map_id = upload()["id"]
    assert client.put(f"/maps/{map_id}/aliases/stable", headers={"If-Match": f'"{NOBODY}"'}).status_code == 412
    with database.read() as session:
        assert maps.get_map(session, map_id).aliases == ("default",)


def profiled(client: TestClient, start: Callable[..., dict[str, Any]], database: Database) -> str:
    from tests.services.scoring.work import finish

    job = start()
    finish(database, job["id"])
    found: str = client.get(f"/score/{job['id']}").json()["map_id"]
    return found
