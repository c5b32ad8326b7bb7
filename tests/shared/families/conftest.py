from __future__ import annotations

from collections.abc import Callable

import pytest

from headmap.families.loading import LoadedModel
from tests.models import FAMILIES


@pytest.fixture(scope="session", params=FAMILIES)
def family_model(request: pytest.FixtureRequest, small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    """A small model of every family in turn."""
    return small_model(request.param)
