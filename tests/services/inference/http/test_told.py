from __future__ import annotations

from dataclasses import replace

from fastapi import FastAPI
from fastapi.testclient import TestClient

from headmap.engine.decode_choice import DecodeChoice
from headmap.kvcache.backends.choice import Choice, Tried
from headmap.settings import DEMO_MODEL, Settings
from tests.services.inference.asking import QUESTION, ask
from tests.services.inference.fakes import IMAGE_TOKENS, FakeModels


def test_metrics_have_the_names_that_dashboards_know(client: TestClient, picture: str) -> None:
    ask(client, picture, kv={"method": "snapkv", "ratio": 0.5})
    ask(client, picture, kv={"method": "h2o", "ratio": 0.5})
    told = client.get("/metrics").text
    model = f'model_name="{DEMO_MODEL}"'
    for line in (
        f"headmap_num_requests_running{{{model}}} 0.0",
        f"headmap_num_requests_waiting{{{model}}} 0.0",
        f"headmap_kv_cache_usage_ratio{{{model}}} 0.0",
        f"headmap_num_preemptions_total{{{model}}} 0.0",
        f"headmap_time_to_first_token_seconds_count{{{model}}} 1.0",
        f"headmap_generation_tokens_total{{{model}}} 5.0",
        f"headmap_prompt_tokens_total{{{model}}} {IMAGE_TOKENS + len(QUESTION)}.0",
        f'headmap_request_refused_total{{code="unknown_method",{model}}} 1.0',
    ):
        assert line in told, line
    assert f'headmap_kv_kept_bytes_total{{method="snapkv",{model}}}' in told
    assert f'headmap_kv_full_bytes_total{{method="snapkv",{model}}}' in told


def test_a_stream_read_to_its_end_counts_as_finished_alone(client: TestClient, picture: str) -> None:
    client.post("/generate", json={"inputs": QUESTION, "images": [picture], "stream": True})
    told = client.get("/metrics").text
    assert "headmap_request_success_total{" in told
    assert "headmap_request_failure_total{" not in told
    assert "headmap_request_refused_total{" not in told


def test_readiness_follows_the_engine(client: TestClient, models: FakeModels) -> None:
    assert client.get("/health/ready").status_code == 200
    models.engine.current.alive = False
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_the_engine_is_stopped_with_the_application(app: FastAPI, models: FakeModels) -> None:
    with TestClient(app):
        assert not models.engine.stopped
    assert models.engine.stopped


def test_models_and_info(client: TestClient, settings: Settings) -> None:
    listed = client.get("/v1/models").json()
    (model,) = listed["data"]
    assert (listed["object"], model["id"], model["object"]) == ("list", DEMO_MODEL, "model")
    assert (model["map"], model["default_kv"]) == (None, {"method": "full"})
    assert (model["num_layers"], model["num_heads"], model["num_kv_heads"]) == (6, 6, 3)
    assert client.get(f"/v1/models/{DEMO_MODEL}").json() == model
    info = client.get("/info").json()
    assert (info["model_id"], info["model_sha"]) == (DEMO_MODEL, model["revision"])
    assert info["max_total_tokens"] == model["max_model_len"]
    assert model["decode"] is None  # a fake engine has found nothing out
    missing = client.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_info_tells_how_decode_steps_run_and_what_was_left_out(app: FastAPI, models: FakeModels) -> None:
    tried = (Tried("native", reason="no compiler"), Tried("torch", 2e-7, 1.5))
    off = Choice("off", (Tried("on", reason="cpu has none"),))
    found = DecodeChoice(Choice("torch", tried), off, replace(off, tried=(Tried("on", reason="steps are no graphs"),)))
    models.decode = found
    with TestClient(app) as client:
        (model,) = client.get("/info").json()["models"]
    attention, graphs = model["decode"]["attention"], model["decode"]["graphs"]
    assert (attention["chosen"], attention["gain"], graphs["chosen"]) == ("torch", None, "off")
    assert model["decode"]["compiled"]["tried"][0]["reason"] == "steps are no graphs"
    assert attention["tried"] == [
        {"name": "native", "right": False, "error": None, "milliseconds": None, "reason": "no compiler"},
        {"name": "torch", "right": True, "error": 2e-7, "milliseconds": 1.5, "reason": None},
    ]
