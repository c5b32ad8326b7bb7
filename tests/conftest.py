"""Fixtures for all tests. Models are small, random and made once a session; nothing is fetched."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from headmap.families.loading import LoadedModel
    from headmap.settings import Settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported; servers run beside the tests
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads of their own would only wait for them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "TRITON_INTERPRET", "1"
)  # read when triton is imported, which torch may do: kernels run on the CPU

with suppress(ImportError):  # the environments of tests/clients do without
    from hypothesis import settings

    # How long an example takes says how busy the machine is.
    settings.register_profile("headmap", deadline=None)
    settings.load_profile("headmap")

FAMILIES = ("qwen2_vl", "llava_next_llama", "llava_next_mistral")


def pytest_collection_finish() -> None:
    """Modules and collected tests stay: looking through a million objects in each collection takes a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_applications_of_other_files() -> Iterator[None]:
    """FastAPI's caches hold the routes of every application, and with them all of it: ten thousand objects each."""
    yield
    for held in vars(sys.modules.get("fastapi.dependencies.models", object)).values():
        if clear := getattr(held, "cache_clear", None):
            clear()


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy, since migrating takes longer than most tests."""
    from headmap.registry.migrations import migrate
    from headmap.settings import Settings

    settings = Settings(data_dir=tmp_path_factory.mktemp("registry"))
    migrate(settings)
    return settings.data_dir / "registry.sqlite3"


@pytest.fixture(scope="session")
def migrated(empty_registry: Path) -> Callable[[Settings], None]:
    """Makes the registry of settings by such a copy."""

    def copy(settings: Settings) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_registry, settings.data_dir)

    return copy


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model by its name in `models.FAMILIES`."""
    from tests import models

    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            build = {**models.FAMILIES, "qwen2_vl_sliding": lambda: models.qwen2_vl(window=30)}[name]
            made[name] = models.save(build(), tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="session")
def small_model(model_folder: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """A small random model, loaded as the services load theirs."""
    import torch

    from headmap.errors import UnsupportedModel
    from headmap.families.loading import load_model
    from headmap.models import read_model

    torch.set_num_threads(1)  # on models this small, threads cost more than they bring
    loaded: dict[str, LoadedModel] = {}

    def load(name: str) -> LoadedModel:
        if name not in loaded:
            try:
                loaded[name] = load_model(read_model(name, model_folder(name)), device="cpu")
            except UnsupportedModel as error:
                if name in ("idefics3", "smolvlm") and "torchvision" in error.detail:
                    pytest.skip(f"transformers {version('transformers')} has no picture processor without torchvision")
                raise
        return loaded[name]

    return load


@pytest.fixture(scope="session", params=FAMILIES)
def any_model(request: pytest.FixtureRequest, small_model: Callable[[str], LoadedModel]) -> LoadedModel:
    """One small model of each family in turn."""
    return small_model(request.param)
