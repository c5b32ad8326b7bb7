"""Clients as people install them, against a live server. `python -m tests.clients` runs each in its own environment.

A client's environment has pytest and the client, nothing of ours, so nothing of ours is imported here at the top.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

URL = os.environ.get("HEADMAP_CLIENT_URL")
KEY = os.environ.get("HEADMAP_CLIENT_KEY", "a-key-of-the-settings")

# Without a server of `python -m tests.clients`: only what is installed beside us, and takes seconds.
collect_ignore = [] if URL else [path.name for path in Path(__file__).parent.iterdir() if path.name != "openai"]

_SAMPLE = Path(__file__).parents[2] / "shared" / "headmap" / "demo" / "samples" / "0000.png"


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for KEY."""
    if URL:
        yield URL
        return
    from benchmarks.process import server_process
    from tests.clients.prepared import prepare_registry

    folder = tmp_path_factory.mktemp("clients")
    prepare_registry(folder)
    with server_process(folder, {"HEADMAP_API_KEYS": f'["{KEY}"]'}) as server:
        yield server.url


@pytest.fixture(scope="session")
def scoring_url() -> str:
    """The scoring service beside it; only with `python -m tests.clients`."""
    return os.environ["HEADMAP_CLIENT_SCORING_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    return KEY


@pytest.fixture(scope="session")
def picture() -> str:
    """A page as a data: URL. QUESTION is about it, and ANSWER is what the bundled model reads there."""
    return f"data:image/png;base64,{base64.b64encode(_SAMPLE.read_bytes()).decode()}"


@pytest.fixture(scope="session")
def question() -> str:
    return "What is the value of BXP?"


@pytest.fixture(scope="session")
def answer() -> str:
    import json

    (page, *_) = (json.loads(line) for line in (_SAMPLE.parent / "pages.jsonl").read_text().splitlines())
    return next(str(one["answer"]) for one in page["questions"] if "BXP" in one["question"])


@pytest.fixture(scope="session")
def model() -> str:
    return "headmap/demo-ocr"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A folder of made-up pages: PNGs and pages.jsonl, as `headmap pages` writes them."""
    folder = tmp_path / "pages"
    command = [os.environ["HEADMAP_CLIENT_PYTHON"], "-m", "services.cli.main", "pages", "--count", "6", "--seed", "5"]
    given = {**os.environ, "PYTHONPATH": "shared:."}
    subprocess.run([*command, "--out", str(folder)], check=True, env=given, capture_output=True)
    return folder
