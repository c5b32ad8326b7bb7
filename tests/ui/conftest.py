"""A real cluster, the dashboard in front of it as a process of its own, and a real Chromium: `make test-ui`.

What needs the browser is collected only where the marker is asked for. Pictures are left in ui-out/.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from headmap.registry.migrations import migrate
from headmap.settings import Settings
from tests.integration.servers import find_or_install, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
OUT = ROOT / "ui-out"
KEY = "a-key-that-nobody-guesses"
# Chromium's own confinement needs rights that root in a container does not have
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", "--font-render-hinting=none"]
FILES = (
    *("first_visit", "maps", "evaluations", "budgets", "jobs", "playground", "status", "keys", "docs", "looks"),
    "outage",
)
"""The test files, as a newcomer goes through the dashboard: each finds the maps and jobs of those before it."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ui: drives the dashboard in a real Chromium; make test-ui")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = re.search(r"\bui\b", config.option.markexpr or "")
    return None if asked or not collection_path.name.startswith("test_") else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    items.sort(key=lambda item: FILES.index(item.path.stem[len("test_") :]) if item.path.parent == folder else -1)


class Running:
    """A process of ours, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.log = folder / f"{arguments[0]}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}",
            "HEADMAP_DRAIN_SECONDS": "2",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait_for(self, url: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(httpx.HTTPError):
                if httpx.get(url, timeout=5).status_code == 200:
                    return
            time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


class Cluster:
    """`headmap up` on a port that stays the same, to be killed and started again. Subfolders of `models` are models."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.models = folder / "models"
        self.models.mkdir()
        self.url = f"http://127.0.0.1:{self.port}"
        self._running: Running | None = None
        self._left: list[str] = []
        """Processes that a killed cluster left, which end by themselves."""

    def start(self) -> None:
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in self._left):
            assert time.monotonic() < deadline, "the worker outlives its cluster"
            time.sleep(0.2)
        data = str(self._folder / "data")
        self._running = Running(
            self._folder, "services.cli.main", "up", "--port", str(self.port), "--data-dir", data,
            HEADMAP_MODEL_DIRS=f'["{self.models}"]',
        )  # fmt: skip
        self._running.wait_for(f"{self.url}/health/ready", 240)

    def kill(self) -> None:
        """Without a word, as a machine that loses its power: all but the worker, which then ends by itself."""
        if self._running is None:
            raise RuntimeError("the cluster does not run")
        supervisor = self._running.process
        children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
        self._left = children
        supervisor.kill()
        for child in children:
            if b"services.embedded.web" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        supervisor.wait(60)
        self._running = None

    def stop(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.start()
    yield made
    made.stop()


def served(folder: Path, module: str, *arguments: str, **settings: str) -> tuple[str, Running]:
    """A service on a port of its own, once it is ready: its URL and its process."""
    port = free_port()
    made = Running(folder, module, "--port", str(port), *arguments, **settings)
    url = f"http://127.0.0.1:{port}"
    made.wait_for(f"{url}/health/ready", 120)
    return url, made


@pytest.fixture(scope="session")
def dashboard(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard's URL."""
    url, made = served(tmp_path_factory.mktemp("dashboard"), "services.dashboard", "--api", cluster.url)
    yield url
    made.end()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A dashboard before a scoring service that needs the key KEY: its URL, and the folder with both logs."""
    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    keys = {"HEADMAP_DATA_DIR": str(tmp_path), "HEADMAP_API_KEYS": f'["{KEY}"]'}
    api, scoring = served(tmp_path, "services.scoring", **keys)
    url, made = served(tmp_path, "services.dashboard", "--api", api)
    yield url, tmp_path
    made.end()
    scoring.end()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    program = find_or_install("chromium", "chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, dashboard: str) -> Iterator[Page]:
    """A page at the dashboard's address; a mistake in its scripts fails the test."""
    context = browser.new_context(base_url=dashboard, viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(25_000)
    mistakes: list[str] = []
    opened.on("pageerror", lambda error: mistakes.append(str(error)))
    opened.on("console", lambda message: mistakes.append(message.text) if "page_error" in message.text else None)
    yield opened
    context.close()
    assert mistakes == []
