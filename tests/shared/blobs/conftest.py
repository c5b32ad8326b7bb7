"""A server that speaks S3, once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3fs import S3FileSystem

from tests.shared.blobs.s3_server import S3Server, speak_to


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    speak_to(s3_server.url, monkeypatch)
    return s3_server.make_bucket()


@pytest.fixture
def no_clients() -> Iterator[None]:
    """No client of another test's server is used again, nor one of this test's."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()
