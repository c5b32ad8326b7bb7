"""Every family through the services: profiled by POST /score, then served with its map by POST /generate."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from headmap.families.loading import load_model
from headmap.jobs.runner import run_shard
from headmap.jobs.work import OnPage, ShardResult, ShardSpec
from headmap.models import find_model
from headmap.registry.migrations import migrate
from headmap.scoring.pages import Page, Word
from headmap.scoring.profile import Profiler
from headmap.settings import Settings
from services.embedded.app import create_app
from tests.models import CHARACTERS, FAMILIES
from tests.shared.families.seeing import noise
from tests.shared.jobs.fakes import CountingBroker

pytestmark = pytest.mark.slow

# window and number of the layers that slide
WINDOWS = {"gemma3": (24, 1), "mistral3_sliding": (72, 2)}
Service = tuple[TestClient, Settings, CountingBroker]


class OneWordScorer:
    """The real profiler on pages whose one word is as large as the page: random models hit such words too."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, spec: ShardSpec, on_page: OnPage) -> ShardResult:
        profiler = Profiler(load_model(find_model(spec.model, self._settings), device="cpu"))
        word = Word(CHARACTERS, (0, 0, 72, 56))
        pages = [Page(Image.fromarray(noise(72, 56, spec.first + index)), (word,), ()) for index in range(spec.count)]
        sums, looks = profiler.score(
            pages, first=spec.first, rule=spec.parameters["rule"], max_new_tokens=spec.max_new_tokens, on_page=on_page
        )
        return ShardResult(sums.to_bytes(), looks)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> Iterator[Service]:
    """One application that serves them all."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        models=tuple(str(model_folder(name)) for name in FAMILIES),
        kv_memory_bytes=200_000_000,
        map_refresh_seconds=0.05,
    )
    migrate(settings)
    broker = CountingBroker()
    with TestClient(create_app(settings, broker=broker)) as client:
        yield client, settings, broker


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_profiled_and_served(name: str, service: Service, model_folder: Callable[[str], Path]) -> None:
    client, settings, broker = service
    model = str(model_folder(name))
    body = {"model": model, "pages": 2, "max_new_tokens": 40, "rule": "paper"}
    job = client.post("/score", json=body)
    assert job.status_code == 202, job.text
    scorer = OneWordScorer(settings)
    while broker.sent:
        shard = broker.sent.pop()
        assert run_shard(client.app.state.scoring.database, settings, lambda: scorer, *shard, owner="test") == "done"
    found = client.get(job.headers["Location"]).json()
    assert (found["state"], found["progress"]["done"]) == ("succeeded", 2), found["error"]
    scores = client.get(f"/maps/{found['map_id']}").json()

    pictures = []
    for index in range(2):
        file = BytesIO()
        Image.fromarray(noise(72, 56, index)).save(file, "PNG")
        pictures.append(base64.b64encode(file.getvalue()).decode())
    kv = {"method": "sparsemm", "ratio": 0.25, "map": found["map_id"]}
    asked = {"model": model, "inputs": "What is it?", "images": pictures}
    answers = {
        method: client.post("/generate", json={**asked, "parameters": {"max_new_tokens": 4, "kv": choice}})
        for method, choice in (("sparsemm", kv), ("full", {"method": "full"}))
    }
    for answer in answers.values():
        assert answer.status_code == 200, answer.text
    few, full = (answers[method].json()["details"] for method in ("sparsemm", "full"))
    assert (few["kv"]["method"], few["kv"]["map_id"]) == ("sparsemm", found["map_id"])
    assert full["kv"]["kept_tokens"] == full["kv"]["full_tokens"] == few["kv"]["full_tokens"]
    prompt, heads = full["prompt_tokens"], scores["num_kv_heads"]
    window, sliding = WINDOWS.get(name, (0, 0))
    budgeted = scores["num_layers"] - sliding
    assert full["kv"]["full_tokens"] == (budgeted * prompt + sliding * window) * heads
    assert few["kv"]["kept_tokens"] == (budgeted * (prompt // 4) + sliding * window) * heads
    assert few["generated_tokens"] >= 1
