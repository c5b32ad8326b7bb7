"""The model that a worker holds: one, loaded once, and none after a while."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headmap.errors import ModelNotUsable
from headmap.jobs.loaded_models import LoadedModels
from headmap.models import find_model
from headmap.settings import DEMO_MODEL, Settings

REVISION = find_model(DEMO_MODEL, Settings()).revision


@pytest.fixture
def models(tmp_path: Path) -> Iterator[LoadedModels]:
    held = LoadedModels(Settings(data_dir=tmp_path, device="cpu", model_idle_seconds=0.1))
    yield held
    held.let_go()


def borrow(models: LoadedModels, *, seconds: float = 0.0) -> Callable[[], object]:
    """Use the model for a while; the answer finds it for as long as anybody holds it."""
    with models.use(DEMO_MODEL, REVISION) as loaded:
        time.sleep(seconds)
        return weakref.ref(loaded.model)


def test_a_model_is_let_go_when_it_was_idle_and_not_while_it_is_used(models: LoadedModels) -> None:
    with models.use(DEMO_MODEL, REVISION) as loaded:
        found = weakref.ref(loaded.model)
        del loaded
        time.sleep(0.3)
        gc.collect()
        assert found() is not None
    deadline = time.monotonic() + 10
    while found() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found() is None
    assert borrow(models)() is not None, "it is loaded again"


def test_a_model_in_use_is_loaded_once_and_another_replaces_it(tmp_path: Path) -> None:
    models = LoadedModels(Settings(data_dir=tmp_path, device="cpu"))
    first = borrow(models)
    assert borrow(models)() is first()
    with pytest.raises(ModelNotUsable), models.use(DEMO_MODEL, "another revision"):
        pass
    assert first() is None, "the former model goes before the next one comes"
    models.let_go()
