from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from headmap.head_scores import HeadScores
from headmap.models import find_model
from headmap.registry.aliases import Promote
from headmap.registry.maps import Provenance, add_map
from headmap.registry.session import Database
from headmap.settings import DEMO_MODEL, Settings
from services.inference.http.app import create_app
from tests.live import live as live
from tests.live import wait_for as wait_for
from tests.services.inference.fakes import FakeModels


@pytest.fixture
def settings(tmp_path: Path, empty_registry: Path) -> Settings:
    shutil.copy(empty_registry, tmp_path / "registry.sqlite3")
    return Settings(data_dir=tmp_path, map_refresh_seconds=0.05, drain_seconds=2)


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def app(settings: Settings, models: FakeModels) -> FastAPI:
    return create_app(settings, open_model=models)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.sql_url)
    yield database
    database.close()


AddMap = Callable[..., str]


@pytest.fixture
def file_map(settings: Settings, database: Database) -> AddMap:
    """Files a map of the bundled model and returns its id."""
    info = find_model(DEMO_MODEL, settings)

    def add(revision: str | None = info.revision, layers: int = info.num_layers, promote: Promote = True) -> str:
        matrix = np.arange(1.0, 1 + layers * info.num_heads).reshape(layers, info.num_heads)
        with database.write() as session:
            return add_map(
                session,
                Provenance(model=DEMO_MODEL, revision=revision, architecture=None, dataset="test"),
                HeadScores(matrix, info.num_kv_heads),
                promote=promote,
                by=None,
            )

    return add


def png(width: int = 8, height: int = 8, mode: str = "RGB", **options: object) -> bytes:
    file = BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG", **options)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@pytest.fixture
def picture() -> str:
    return base64_of(png())
