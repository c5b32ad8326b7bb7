"""The stack, built and brought up once; what needs it is collected only where the marker is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compose.stack import Stack


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compose: builds and runs docker-compose.yml; make test-compose")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = "compose" in (config.option.markexpr or "")
    return True if collection_path.name in ("test_stack.py", "test_first_start.py") and not asked else None


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("compose"))
    try:
        made.compose("build")
        made.up()
        yield made
    except AssertionError:
        print(made.compose("logs", "--tail=40", check=False).stdout[-20_000:])
        raise
    finally:
        made.down()


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    """A client of a stack that is ready."""
    with stack.client() as opened:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = opened.get("/health")
                if answer.status_code == 200 and answer.json()["status"] == "ok":
                    break
                said = answer.text
            except httpx.TransportError as error:
                said = repr(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"the stack is not ready: {said}")
            time.sleep(0.5)
        yield opened
