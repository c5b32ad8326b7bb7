"""A small real model and an engine on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from headmap.engine.engine import Engine
from headmap.families.loading import LoadedModel
from headmap.settings import Settings


@pytest.fixture(scope="module")
def model(small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    # no end token: random weights would end a request when they please
    return replace(small_model("qwen2_vl"), eos_token_ids=frozenset())


@pytest.fixture
def engine(model: LoadedModel) -> Iterator[Engine]:
    engine = Engine(model, Settings(kv_memory_bytes=8_000_000, max_running=16, max_waiting=16))
    engine.start()
    yield engine
    engine.stop(0)
