from __future__ import annotations

from fastapi.testclient import TestClient
from sqlalchemy import text

from headmap.registry.maps import set_alias
from headmap.registry.session import Database
from headmap.settings import Settings
from services.inference.http.app import create_app
from tests.services.inference.asking import QUESTION, ask
from tests.services.inference.conftest import AddMap, wait_for
from tests.services.inference.fakes import IMAGE_TOKENS, FakeModels


def test_sparsemm_is_the_default_method_and_takes_the_default_map(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap
) -> None:
    map_id = file_map()
    with TestClient(create_app(settings, open_model=models)) as client:
        kv = ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]
    assert (kv["method"], kv["map_id"], kv["map_match"]) == ("sparsemm", map_id, "exact")
    assert kv["kept_tokens"] == kv["budget"] * kv["full_tokens"] // (IMAGE_TOKENS + len(QUESTION))


def test_a_map_of_another_revision_says_so(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap
) -> None:
    file_map(revision="older")
    with TestClient(create_app(settings, open_model=models)) as client:
        assert ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_match"] == "revision"


def test_without_a_map_sparsemm_runs_as_snapkv_and_tells(client: TestClient, picture: str) -> None:
    kv = ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]
    assert (kv["method"], kv["map_id"], kv["map_match"]) == ("snapkv", None, "none")


def test_without_a_map_the_error_policy_answers_409(settings: Settings, models: FakeModels, picture: str) -> None:
    strict = settings.model_copy(update={"no_map_policy": "error"})
    with TestClient(create_app(strict, open_model=models)) as client:
        response = ask(client, picture, kv={"ratio": 0.5})
    assert (response.status_code, response.json()["code"]) == (409, "no_map_for_model")


def test_an_alias_that_moves_is_followed_without_a_restart(client: TestClient, picture: str, file_map: AddMap) -> None:
    first = file_map()
    wait_for(lambda: ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_id"] == first)
    second = file_map()
    wait_for(lambda: ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_id"] == second)


def test_a_server_may_follow_another_alias_than_default(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap, database: Database
) -> None:
    first, second = file_map(), file_map(promote=False)
    canary = settings.model_copy(update={"map_alias": "canary"})
    with TestClient(create_app(canary, open_model=models)) as client:
        assert ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_match"] == "none"
        with database.write() as session:
            set_alias(session, second, "canary", by=None)
        wait_for(lambda: ask(client, picture, kv={"ratio": 0.5}).json()["details"]["kv"]["map_id"] == second)
        assert ask(client, picture, kv={"ratio": 0.5, "map": "default"}).json()["details"]["kv"]["map_id"] == first


def test_a_map_is_chosen_by_id_or_alias(client: TestClient, picture: str, file_map: AddMap) -> None:
    first, second = file_map(), file_map()
    for name, wanted in ((first, first), ("default", second)):
        kv = ask(client, picture, kv={"ratio": 0.5, "map": name}).json()["details"]["kv"]
        assert kv["map_id"] == wanted


def test_an_unknown_map_answers_404(client: TestClient, picture: str) -> None:
    response = ask(client, picture, kv={"ratio": 0.5, "map": "nope"})
    assert (response.status_code, response.json()["code"]) == (404, "map_not_found")
    assert "'nope'" in response.json()["detail"]


def test_a_map_of_another_shape_answers_409(client: TestClient, picture: str, file_map: AddMap) -> None:
    other = file_map(layers=3)
    response = ask(client, picture, kv={"ratio": 0.5, "map": other})
    assert (response.status_code, response.json()["code"]) == (409, "map_mismatch")


def test_a_registry_that_goes_away_leaves_the_loaded_maps(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap, database: Database
) -> None:
    first, second = file_map(), file_map()
    with TestClient(create_app(settings, open_model=models)) as client:
        assert ask(client, picture, kv={"ratio": 0.5, "map": first}).status_code == 200
        with database.write() as session:
            session.execute(text("ALTER TABLE maps RENAME TO away"))
        wait_for(lambda: client.get("/health/ready").json()["status"] == "degraded")
        assert client.get("/health/ready").status_code == 200
        for name, wanted in ((None, second), (first, first)):
            kv = ask(client, picture, kv={"ratio": 0.5, "map": name}).json()["details"]["kv"]
            assert kv["map_id"] == wanted
        response = ask(client, picture, kv={"ratio": 0.5, "map": "never-seen"})
        assert (response.status_code, response.json()["code"]) == (503, "registry_unavailable")


def test_a_default_ratio_serves_requests_without_kv(
    settings: Settings, models: FakeModels, picture: str, file_map: AddMap
) -> None:
    map_id = file_map()
    ours = settings.model_copy(update={"default_kv_ratio": 0.25})
    with TestClient(create_app(ours, open_model=models)) as client:
        kv = ask(client, picture).json()["details"]["kv"]
    assert (kv["method"], kv["map_id"]) == ("sparsemm", map_id)
    assert kv["bytes"] <= 0.25 * kv["full_bytes"]
