"""Several models of one process: together they take no more memory than one would."""

from __future__ import annotations

from fastapi.testclient import TestClient

from headmap.devices import find_device
from headmap.engine.memory import share_of_each, spare_memory
from headmap.models import DEMO_FOLDER
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.services.inference.fakes import FakeModels, FakeStats

BOTH = (DEMO_MODEL, str(DEMO_FOLDER))


def test_no_engine_is_made_before_all_weights_are_loaded(settings: Settings, models: FakeModels) -> None:
    with TestClient(create_app(settings.model_copy(update={"models": BOTH}), open_model=models)):
        assert models.log == [f"{step} {name}" for step in ("load", "engine") for name in BOTH]


def test_they_share_what_the_settings_give(settings: Settings, models: FakeModels) -> None:
    twice = (*BOTH, DEMO_MODEL)  # a name that stands twice is one model
    ours = settings.model_copy(update={"models": twice, "kv_memory_bytes": 1001, "session_memory_bytes": 600})
    with TestClient(create_app(ours, open_model=models)):
        assert [(share.kv_memory_bytes, share.session_memory_bytes) for share in models.shares] == [(500, 300)] * 2


def test_they_share_what_is_free_where_the_settings_give_nothing(settings: Settings) -> None:
    spare = spare_memory(find_device(settings.device))
    for models in (1, 8):
        share = share_of_each(settings, models).kv_memory_bytes
        assert share is not None
        assert 1 / 2 < share * models / spare < 2  # what is free is never quite the same


def test_one_engine_that_ended_makes_the_whole_not_ready(settings: Settings, models: FakeModels) -> None:
    app = create_app(settings.model_copy(update={"models": BOTH}), open_model=models)
    with TestClient(app) as client:
        assert client.get("/health/ready").status_code == 200
        assert app.state.failure() is None
        models.engines[BOTH[1]].current = FakeStats(alive=False)
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        check = {"status": "unavailable", "detail": "its engine has ended; this process ends, to be started again"}
        assert answer.json()["checks"][f"model {BOTH[1]}"] == check
        assert app.state.failure() == f"the engine of {BOTH[1]} ended by itself"
        assert client.get("/health/live").status_code == 200
    assert app.state.failure() is None  # it was stopped


def test_what_runs_counts_among_what_is_taken_and_an_idle_server_takes_one(
    settings: Settings, models: FakeModels, picture: str
) -> None:
    """Nothing queues at max_waiting 0: it is refused before its picture is decoded, and only by the busy model."""
    tiny = settings.model_copy(update={"models": BOTH, "max_waiting": 0, "max_running": 2})
    with TestClient(create_app(tiny, open_model=models)) as client:

        def ask(model: str) -> int:
            return client.post("/generate", json={"inputs": "What?", "images": [picture], "model": model}).status_code

        assert ask(BOTH[0]) == 200
        models.engine.current = FakeStats(running=1, waiting=1)
        prepared = len(models.prompt_maker.images)
        assert (ask(BOTH[0]), ask(BOTH[1])) == (429, 200)
        assert len(models.prompt_maker.images) == prepared
        models.engine.current = FakeStats(running=1)
        assert ask(BOTH[0]) == 200
