"""Policies served as model names, and in `kv`: on every route, followed live, told in every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import text

from headmap.models import DEMO_FOLDER
from headmap.registry.policies import delete_policy, put_policy
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.services.inference.asking import ask
from tests.services.inference.conftest import AddMap, wait_for
from tests.services.inference.fakes import FakeModels
from tests.services.inference.http.test_kv_choice import PATHS

NAME = f"{DEMO_MODEL}@documents"
CHAT = "/v1/chat/completions"

PutPolicy = Callable[..., int]


@pytest.fixture
def put(database: Database) -> PutPolicy:
    """Writes a policy, by default `documents`: snapkv at 0.2; returns its version."""

    def write(name: str = "documents", model: str = DEMO_MODEL, **kv: Any) -> int:
        with database.write() as session:
            return put_policy(session, model, name, kv or {"method": "snapkv", "ratio": 0.2}, by=None)[0].version

    return write


def served_with(settings: Settings, fakes: FakeModels, **more: Any) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update=more), open_model=fakes)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def used(client: TestClient, **body: Any) -> tuple[str | None, int | None, str]:
    answer = client.post(CHAT, json=PATHS[CHAT] | body)
    assert answer.status_code == 200, answer.text
    kv = answer.json()["kv"]
    return kv["policy"], kv["policy_version"], kv["method"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_every_route_serves_a_policy_by_name_and_by_kv(
    client: TestClient, models: FakeModels, put: PutPolicy, path: str, stream: bool
) -> None:
    put()
    body = PATHS[path] | ({} if path == "/generate_stream" else {"stream": stream})
    kv = {"kv": {"policy": "documents"}}
    by_kv = kv if path.startswith("/v1") else {"parameters": kv}
    headers = {"x-headmap-kv": "policy=documents"}
    for answer in (
        client.post(path, json=body | {"model": NAME}),
        client.post(path, json=body | by_kv),
        client.post(path, json=body, headers=headers),
        client.post(path, json=body | by_kv | {"model": NAME}, headers=headers),
    ):
        assert answer.status_code == 200, answer.text
        told = dict(part.split("=") for part in answer.headers["x-headmap-kv"].split("; "))
        assert (told["policy"], told["policy_version"], told["method"]) == ("documents", "1", "snapkv")
        assert '"policy":"documents","policy_version":1' in answer.text.replace(" ", "")
    assert [request.kv.ratio for request in models.engine.requests] == [0.2] * 4


def test_tokenize_knows_the_name(client: TestClient, put: PutPolicy) -> None:
    put()
    assert client.post("/tokenize", json={"model": NAME, "prompt": "abc"}).json()["count"] == 3
    assert client.post("/detokenize", json={"model": NAME, "tokens": [1]}).status_code == 200
    assert client.post("/tokenize", json={"model": f"{DEMO_MODEL}@no", "prompt": "abc"}).status_code == 404


def test_a_change_is_followed_and_a_deletion_too(client: TestClient, put: PutPolicy, database: Database) -> None:
    put()
    assert used(client, model=NAME) == ("documents", 1, "snapkv")
    put(method="full")
    wait_for(lambda: used(client, model=NAME) == ("documents", 2, "full"))
    with database.write() as session:
        delete_policy(session, DEMO_MODEL, "documents", by=None)
    wait_for(lambda: client.get(f"/v1/models/{NAME}").status_code == 404)


def test_an_answer_without_a_policy_tells_none(client: TestClient) -> None:
    assert used(client) == (None, None, "full")


def test_a_registry_that_goes_away_leaves_policies_and_their_maps_though_nobody_asked_for_them(
    settings: Settings, models: FakeModels, put: PutPolicy, file_map: AddMap, database: Database
) -> None:
    file_map()
    held = file_map(promote=False)
    put(method="sparsemm", ratio=0.2, map=held)
    for client in served_with(settings, models):
        with database.write() as session:
            session.execute(text("ALTER TABLE policies RENAME TO away"))
            session.execute(text("ALTER TABLE maps RENAME TO away_too"))
        wait_for(lambda client=client: client.get("/health/ready").json()["status"] == "degraded")
        answer = client.post(CHAT, json=PATHS[CHAT] | {"model": NAME})
        assert (answer.json()["kv"]["policy"], answer.json()["kv"]["map_id"]) == ("documents", held)
        unknown = client.post(CHAT, json=PATHS[CHAT] | {"model": f"{DEMO_MODEL}@other"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "registry_unavailable")


def test_an_unknown_policy_is_404_with_the_near_name(client: TestClient, put: PutPolicy) -> None:
    put()
    used(client, model=NAME)
    for body, param in (
        ({"model": f"{DEMO_MODEL}@document"}, "model"),
        ({"kv": {"policy": "dokuments"}}, "kv.policy"),
    ):
        answer = client.post(CHAT, json=PATHS[CHAT] | body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "policy_not_found", param)
        assert "did you mean 'documents'?" in error["message"]


@pytest.mark.parametrize(
    ("body", "headers", "param"),
    [
        ({"kv": {"policy": "documents", "ratio": 0.2}}, {}, "kv.ratio"),
        ({}, {"x-headmap-kv": "policy=documents; ratio=0.2"}, "x-headmap-kv"),
        ({"model": NAME, "kv": {"method": "full"}}, {}, "model"),
        ({"kv": {"policy": ""}}, {}, "kv.policy"),
    ],
)
def test_what_contradicts_a_policy_is_refused(
    client: TestClient, put: PutPolicy, body: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    put()
    answer = client.post(CHAT, json=PATHS[CHAT] | body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_what_says_the_same_is_taken(client: TestClient, put: PutPolicy) -> None:
    put()
    assert used(client, model=NAME, kv={"method": "snapkv", "ratio": 0.2})[0] == "documents"


def test_models_list_policies_with_root_and_parent(client: TestClient, put: PutPolicy, file_map: AddMap) -> None:
    file_map()
    held = file_map(promote=False)
    put(method="sparsemm", ratio=0.2, map=held)
    put("elsewhere", model="another/model")
    wait_for(lambda: len(client.get("/v1/models").json()["data"]) == 2)
    model, policy = client.get("/v1/models").json()["data"]
    assert (model["id"], model["root"], model["parent"]) == (DEMO_MODEL, DEMO_MODEL, None)
    assert (policy["id"], policy["root"], policy["parent"]) == (NAME, DEMO_MODEL, DEMO_MODEL)
    assert policy["default_kv"] == {
        "policy": "documents",
        "policy_version": 1,
        "method": "sparsemm",
        "ratio": 0.2,
        "map": held,
    }
    assert policy["map"]["id"] == held
    assert client.get(f"/v1/models/{NAME}").json() == policy


def test_openais_client_compares_policies_by_model_name(client: TestClient, put: PutPolicy) -> None:
    put("small")
    put("whole", method="full")
    theirs = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)
    wait_for(lambda: len(theirs.models.list().data) == 3)
    kept = {}
    for one in theirs.models.list():
        if one.model_extra is not None and one.model_extra["parent"] == DEMO_MODEL:
            found = theirs.chat.completions.create(model=one.id, messages=[{"role": "user", "content": "x" * 200}])
            assert (found.model, found.model_extra is not None) == (one.id, True)
            kept[one.id] = (found.model_extra or {})["kv"]["kept_tokens"]
    assert kept[f"{DEMO_MODEL}@small"] < kept[f"{DEMO_MODEL}@whole"]
    with pytest.raises(openai.NotFoundError, match="did you mean 'small'"):
        theirs.chat.completions.create(model=f"{DEMO_MODEL}@smal", messages=[{"role": "user", "content": "x"}])


def test_a_default_policy_serves_requests_without_kv(
    settings: Settings, models: FakeModels, put: PutPolicy, picture: str
) -> None:
    for client in served_with(settings, models, default_policy="documents"):
        missing = ask(client, picture)
        assert (missing.status_code, missing.json()["code"]) == (404, "policy_not_found")
        assert missing.json()["detail"].startswith("HEADMAP_DEFAULT_POLICY: ")
        put()
        kv = ask(client, picture).json()["details"]["kv"]
        assert (kv["policy"], kv["policy_version"], kv["method"]) == ("documents", 1, "snapkv")
        assert ask(client, picture, kv={"method": "full"}).json()["details"]["kv"]["policy"] is None
        assert client.get("/v1/models").json()["data"][0]["default_kv"]["policy"] == "documents"


def test_each_model_has_policies_of_its_own(settings: Settings, models: FakeModels, put: PutPolicy) -> None:
    put()
    for client in served_with(settings, models, models=(DEMO_MODEL, str(DEMO_FOLDER))):
        assert used(client, model=NAME)[0] == "documents"
        other = client.post(CHAT, json=PATHS[CHAT] | {"model": f"{DEMO_FOLDER}@documents"})
        assert other.status_code == 404


def test_one_that_other_code_wrote_is_not_served_and_holds_up_no_other(client: TestClient, put: PutPolicy) -> None:
    put("strange", method="snapkv", ratio=0.2, surprise=1)
    put()
    wait_for(lambda: len(client.get("/v1/models").json()["data"]) == 2)
    answer = client.post(CHAT, json=PATHS[CHAT] | {"model": f"{DEMO_MODEL}@strange"})
    assert (answer.status_code, "surprise" in answer.text) == (400, True)


def test_two_defaults_are_one_too_many() -> None:
    with pytest.raises(ValidationError, match="HEADMAP_DEFAULT_KV_RATIO"):
        Settings(default_kv_ratio=0.2, default_policy="documents")
