"""The servers, once a session; a skip with the reason where they cannot be had."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from headmap.registry.migrations import migrate
from headmap.registry.session import Database, open_database
from headmap.settings import Settings
from tests.integration.cluster import Cluster
from tests.integration.servers import CannotHave, PgBouncer, Postgres, Redis


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    try:
        server = Postgres()
    except CannotHave as reason:
        pytest.skip(str(reason))
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres) -> Iterator[PgBouncer]:
    try:
        server = PgBouncer(postgres)
    except CannotHave as reason:
        pytest.skip(str(reason))
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    try:
        server = Redis()
    except CannotHave as reason:
        pytest.skip(str(reason))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """An empty database of the test's own."""
    return postgres.create(f"t{uuid.uuid4().hex[:12]}")


@pytest.fixture
def settings(tmp_path: Path, postgres_url: str) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", database_url=postgres_url, shard_pages=4, retry_seconds=0.2, lease_seconds=3
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    migrate(settings)
    opened = open_database(settings)
    yield opened
    opened.close()


@pytest.fixture
def cluster(settings: Settings, redis: Redis) -> Iterator[Cluster]:
    redis.flush()
    started = Cluster(settings.model_copy(update={"broker_url": redis.url, "sweep_seconds": 0.5, "max_attempts": 20}))
    yield started
    started.end()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Cluster]:
    """SQLite and the folder broker: the same tasks without a server."""
    values = {
        "shard_pages": 4,
        "shard_questions": 4,
        "retry_seconds": 0.2,
        "lease_seconds": 3,
        "sweep_seconds": 0.5,
        "max_attempts": 20,
    }
    started = Cluster(Settings(data_dir=tmp_path / "embedded", **values))
    yield started
    started.end()


@pytest.fixture(params=["cluster", "embedded"])
def either(request: pytest.FixtureRequest) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    return found
