"""What /metrics tells: our names, and vLLM's where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from headmap.errors import OutOfMemory, QueueFull
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.services.inference.asking import QUESTION, ask
from tests.services.inference.fakes import IMAGE_TOKENS, FakeModels

PROMPT_TOKENS = IMAGE_TOKENS + len(QUESTION)
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_inference_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
)


@pytest.fixture
def aliased(settings: Settings, models: FakeModels) -> Iterator[TestClient]:
    told = settings.model_copy(update={"metrics_aliases": ("vllm",)})
    with TestClient(create_app(told, open_model=models)) as client:
        yield client


def samples(client: TestClient) -> dict[str, float]:
    """Series -> value; `name{label=value,...}` with the labels in order."""
    return {
        f"{one.name}{{{','.join(f'{key}={value}' for key, value in sorted(one.labels.items()))}}}": one.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for one in family.samples
    }


def test_a_request_is_told_under_both_names(aliased: TestClient, picture: str) -> None:
    ask(aliased, picture)
    ask(aliased, picture, kv={"method": "snapkv", "ratio": 0.5})
    told = samples(aliased)
    ours, theirs = f"{{model_name={DEMO_MODEL}}}", f"{{engine=0,model_name={DEMO_MODEL}}}"
    for name in HISTOGRAMS:
        for part in ("count", "sum"):
            assert told[f"vllm:{name}_{part}{theirs}"] == told[f"headmap_{name}_{part}{ours}"], name
    assert told[f"vllm:e2e_request_latency_seconds_count{theirs}"] == 2
    assert told[f"vllm:inter_token_latency_seconds_count{theirs}"] == 2 * 4  # of 5 tokens each
    assert told[f"vllm:time_per_output_token_seconds_count{theirs}"] == 2 * 4
    assert told[f"vllm:request_prompt_tokens_sum{theirs}"] == 2 * PROMPT_TOKENS
    assert told[f"vllm:request_generation_tokens_sum{theirs}"] == 2 * 5
    assert told[f"vllm:prompt_tokens_total{theirs}"] == 2 * PROMPT_TOKENS
    assert told[f"vllm:generation_tokens_total{theirs}"] == 2 * 5
    assert told[f"vllm:num_preemptions_total{theirs}"] == 0
    for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc"):
        assert told[f"vllm:{gauge}{theirs}"] == 0
    # what differs in our labels alone is one series there
    success = f"vllm:request_success_total{{engine=0,finished_reason=stop,model_name={DEMO_MODEL}}}"
    assert told[success] == 2
    blocks = f"vllm:cache_config_info{{block_size=16,engine=0,model_name={DEMO_MODEL},num_gpu_blocks=1000}}"
    assert told[blocks] == 1


def test_the_parts_of_a_request_add_up(client: TestClient, picture: str) -> None:
    ask(client, picture)
    told, model = samples(client), f"{{model_name={DEMO_MODEL}}}"
    queue, prefill, decode, inference = (
        told[f"headmap_request_{part}_time_seconds_sum{model}"] for part in ("queue", "prefill", "decode", "inference")
    )
    assert queue == pytest.approx(0.001)
    assert inference == pytest.approx(prefill + decode) == pytest.approx(0.014)


def test_series_of_a_model_begin_at_0(aliased: TestClient) -> None:
    told = samples(aliased)
    for name in HISTOGRAMS:
        assert told[f"vllm:{name}_count{{engine=0,model_name={DEMO_MODEL}}}"] == 0


def test_others_names_are_told_where_they_are_asked_for_alone(client: TestClient, picture: str) -> None:
    ask(client, picture)
    assert "vllm:" not in client.get("/metrics").text


def test_no_series_tells_a_time_of_creation(aliased: TestClient, picture: str) -> None:
    ask(aliased, picture)
    assert "_created" not in aliased.get("/metrics").text


def test_what_a_client_did_wrong_is_no_failure_of_ours(client: TestClient, picture: str, models: FakeModels) -> None:
    ask(client, picture, kv={"method": "h2o", "ratio": 0.5})
    models.engine.refuse = QueueFull("full")
    ask(client, picture)
    assert not [name for name in samples(client) if name.startswith("headmap_request_failure")]
    models.engine.refuse, models.engine.fail = None, OutOfMemory("none is left")
    ask(client, picture)
    told = samples(client)
    assert {name: value for name, value in told.items() if name.startswith("headmap_request_")
            and "code=" in name} == {
        f"headmap_request_refused_total{{code=unknown_method,model_name={DEMO_MODEL}}}": 1,
        f"headmap_request_refused_total{{code=queue_full,model_name={DEMO_MODEL}}}": 1,
        f"headmap_request_failure_total{{code=out_of_memory,model_name={DEMO_MODEL}}}": 1,
    }  # fmt: skip
