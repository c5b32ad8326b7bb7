"""Pictures of maps over HTTP: one test an outcome."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from headmap.models import find_model
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from tests.services.scoring.problems import assert_problem
from tests.services.scoring.work import finish

Upload = Callable[..., dict[str, Any]]
NOBODY = "0" * 32


@pytest.fixture
def profiled(client: TestClient, start: Callable[..., dict[str, Any]], database: Database) -> str:
    """The map of a job of ten pages."""
    job = start()
    finish(database, job["id"])
    found: str = client.get(f"/score/{job['id']}").json()["map_id"]
    return found


def test_heatmaps(client: TestClient, upload: Upload) -> None:
    map_id = upload()["id"]
    svg = client.get(f"/maps/{map_id}/heatmap.svg")
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert b"<svg" in svg.content
    png = client.get(f"/maps/{map_id}/heatmap.png")
    assert png.headers["content-type"] == "image/png"
    assert png.content.startswith(b"\x89PNG")


@pytest.mark.parametrize("form", ["svg", "png"])
def test_views_of_a_heatmap(client: TestClient, upload: Upload, form: str) -> None:
    path = f"/maps/{upload()['id']}/heatmap.{form}"
    heads, kv_heads = (client.get(path, params={"view": view}) for view in ("heads", "kv_heads"))
    assert heads.content == client.get(path).content != kv_heads.content
    assert_problem(client.get(path, params={"view": "layers"}), 422, "invalid_parameter", "view", "layers")


def test_two_maps_against_each_other(client: TestClient, upload: Upload) -> None:
    one, two = upload(0)["id"], upload(5)["id"]
    svg, png = (client.get(f"/maps/{one}/compare/{two}/scatter.{form}") for form in ("svg", "png"))
    assert (svg.status_code, png.status_code) == (200, 200)
    assert (svg.headers["content-type"], png.headers["content-type"]) == ("image/svg+xml", "image/png")
    assert b"rank correlation" in svg.content
    assert_problem(client.get(f"/maps/{one}/compare/{NOBODY}/scatter.svg"), 404, "map_not_found", NOBODY)
    small = upload(scores={"0-0": 1, "0-1": 2})["id"]
    assert_problem(client.get(f"/maps/{one}/compare/{small}/scatter.png"), 422, "invalid_scores", "shapes")


@pytest.mark.parametrize("accept", [None, "*/*", "image/png", "text/html,image/avif,application/json,*/*;q=0.8"])
def test_an_overlay_is_a_picture(client: TestClient, profiled: str, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = client.get(f"/maps/{profiled}/heads/1/0/overlay?page=3", headers=headers)
    assert answer.status_code == 200
    assert (answer.headers["content-type"], answer.headers["vary"]) == ("image/png", "Accept")
    Image.open(io.BytesIO(answer.content)).verify()


@pytest.mark.parametrize(("query", "accept"), [("format=json", "image/png"), ("", "application/json")])
def test_an_overlay_as_json(client: TestClient, profiled: str, query: str, accept: str) -> None:
    answer = client.get(f"/maps/{profiled}/heads/1/0/overlay?page=2&{query}", headers={"Accept": accept})
    assert answer.json() == {
        "map_id": profiled,
        "layer": 1,
        "head": 0,
        "page": 2,
        "pages": [0, 1, 2, 3],
        "width": 60,
        "height": 40,
        "hits": 1,
        "words": [{"text": "AB", "box": [2, 2, 18, 18]}, {"text": "CD", "box": [42, 22, 58, 38]}],
        "looks": [
            {"token": "AB", "word": 0, "cell": [0, 0, 20, 20], "hit": True},
            {"token": "C", "word": 1, "cell": None, "hit": False},
        ],
    }


def test_format_goes_before_accept(client: TestClient, profiled: str) -> None:
    answer = client.get(f"/maps/{profiled}/heads/0/0/overlay?format=png", headers={"Accept": "application/json"})
    assert answer.headers["content-type"] == "image/png"


def test_what_has_no_overlay_is_not_found(
    client: TestClient, profiled: str, upload: Upload, settings: Settings
) -> None:
    info = find_model(DEMO_MODEL, settings)
    assert_problem(client.get(f"/maps/{NOBODY}/heads/0/0/overlay"), 404, "map_not_found", NOBODY)
    for path in (f"{info.num_layers}/0", f"0/{info.num_heads}"):
        answer = client.get(f"/maps/{profiled}/heads/{path}/overlay")
        assert_problem(answer, 404, "head_not_found", f"{info.num_layers} layers x {info.num_heads} heads")
    answer = client.get(f"/maps/{profiled}/heads/0/0/overlay?page=4")
    assert_problem(answer, 404, "page_not_found", "page 4", "kept are 0, 1, 2, 3")
    imported = client.get(f"/maps/{upload()['id']}/heads/0/0/overlay")
    assert_problem(imported, 404, "page_not_found", "it has none")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("x/0/overlay", "layer"),
        ("0/-1/overlay", "head"),
        ("0/0/overlay?page=-1", "page"),
        ("0/0/overlay?page=99999999999", "page"),
        ("0/0/overlay?format=gif", "format"),
    ],
)
def test_bad_overlays_are_refused(refusing: TestClient, refusing_map: str, path: str, named: str) -> None:
    assert_problem(refusing.get(f"/maps/{refusing_map}/heads/{path}"), 422, "invalid_parameter", named)


def test_looks_go_with_a_job_that_is_cancelled(
    client: TestClient, start: Callable[..., dict[str, Any]], database: Database
) -> None:
    from sqlalchemy import func, select

    from headmap.registry.tables import PageLook

    job = start()
    finish(database, job["id"], shards=1)
    count = select(func.count()).select_from(PageLook)
    with database.read() as session:
        assert session.scalar(count) == 4
    client.delete(f"/score/{job['id']}")
    with database.read() as session:
        assert session.scalar(count) == 0
