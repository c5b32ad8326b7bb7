"""The OpenAPI document tells the truth: schemathesis asks what it describes, and judges the answers by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema
from starlette.testclient import TestClient

from headmap.registry.migrations import migrate
from headmap.settings import DEMO_MODEL, Settings
from services.scoring.app import create_app
from tests.shared.jobs.fakes import CountingBroker


@pytest.fixture
def schema(tmp_path: Path) -> OpenApiSchema:
    chosen = Settings(data_dir=tmp_path, shard_pages=1000)
    migrate(chosen)
    app = create_app(chosen, broker=CountingBroker())
    with TestClient(app) as client:
        client.post("/score", json={"model": DEMO_MODEL, "pages": 1})
        client.post("/evaluations", json={"model": DEMO_MODEL, "dataset": "synthetic", "methods": ["snapkv"]})
        client.post("/maps", json={"model": "m", "num_kv_heads": 1, "scores": {"0-0": 1}})
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_described(schema: OpenApiSchema, mode: GenerationMode) -> None:
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            # A window above the budget, a model that is not here: JSON Schema cannot say all that is refused.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        if mode is GenerationMode.POSITIVE or operation.body or operation.query:
            check()
            asked += 1
    assert asked > 5


def test_every_error_is_described_as_a_problem(schema: OpenApiSchema) -> None:
    document = schema.raw_schema
    json.dumps(document)
    for path, item in document["paths"].items():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if status >= "400" and not path.startswith("/health"):
                    assert set(response["content"]) == {"application/problem+json"}, (path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]
