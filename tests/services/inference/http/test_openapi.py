"""The OpenAPI document holds: schemathesis sends what it promises, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from services.inference.http.app import create_app
from tests.services.inference.conftest import live
from tests.services.inference.fakes import FakeModels


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenApiSchema]:
    chosen = Settings(data_dir=tmp_path_factory.mktemp("fuzz"))
    migrate(chosen)
    with live(create_app(chosen, open_model=FakeModels())) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_described(schema: OpenApiSchema, mode: GenerationMode) -> None:
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case) -> None:
            # No schema says that a string is a picture or a question not blank, so 422 is a true answer to both.
            response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
            assert response.status_code != 503

        if mode is GenerationMode.POSITIVE or operation.body:
            ask()
            asked += 1
    assert asked >= 3
