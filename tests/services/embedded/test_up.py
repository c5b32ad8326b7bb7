"""`headmap up` as a user runs it: real processes on a free port, ended in each of the ways they can be."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from headmap.settings import DEMO_MODEL

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.slow


class Up:
    """A running `headmap up`; `lines` is what it printed."""

    def __init__(self, data_dir: Path, *options: str, drain_seconds: int) -> None:
        self.data_dir = data_dir
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}",
            "HEADMAP_DRAIN_SECONDS": str(drain_seconds),
        }
        self.output = data_dir.parent / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", "up", "--data-dir", str(data_dir), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def url(self) -> str:
        wait_for(lambda: "ready" in self.text or self.process.poll() is not None, 120)
        found = re.search(r"ready +(http://\S+)", self.text)
        assert found is not None, self.text
        return found[1]

    def children(self) -> dict[str, int]:
        """Module -> process id, of those that work on this data directory."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes()
            except (OSError, NotADirectoryError):
                continue
            ours = f"HEADMAP_DATA_DIR={self.data_dir}".encode() in environment.split(b"\0")
            module = next((part.decode() for part in command if part.startswith(b"services.embedded.")), None)
            if ours and module:
                found[module] = int(entry.name)
        return found


@contextmanager
def running(data_dir: Path, *options: str, drain_seconds: int = 5) -> Iterator[Up]:
    up = Up(data_dir, "--port", "0", *options, drain_seconds=drain_seconds)
    try:
        yield up
    finally:
        up.process.kill()
        up.process.wait()
        wait_for(lambda: not up.children(), 40)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.1)


def refused_in_one_line(words: dict[str, list[str]]) -> None:
    """`headmap up` with each of the options ends with 1 and one line, in which the words are."""
    starts = {
        word: subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "up", *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}"},
        )
        for word, options in words.items()
    }
    for word, start in starts.items():
        _, told = start.communicate(timeout=60)
        assert start.returncode == 1
        assert word in told
        assert len(told.strip().splitlines()) == 1


def test_it_serves_scores_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    with running(tmp_path / "50%20 of?[a-z]#é") as up:
        url = up.url()
        assert "open while there are no API keys" in up.text
        assert httpx.get(f"{url}/health/ready").json()["status"] == "ok"
        model = httpx.get(f"{url}/v1/models").json()["data"][0]
        assert (model["id"], model["map"]["version"], model["map"]["match"]) == (DEMO_MODEL, 1, "exact")
        body = {"model": DEMO_MODEL, "pages": 1, "max_new_tokens": 4}
        job = httpx.post(f"{url}/score", json=body).json()
        port, other = url.rsplit(":", 1)[1], str(tmp_path / "other")
        refused_in_one_line(
            {
                f"port {port}": ["--port", port, "--data-dir", other],
                "another cluster runs on": ["--port", "0", "--data-dir", str(up.data_dir)],
                "'nope' is not here": ["--port", "0", "--data-dir", str(tmp_path / "third"), "--model", "nope"],
            }
        )
        wait_for(lambda: httpx.get(f"{url}/score/{job['id']}").json()["progress"]["done"] == 1, 60)
        wait_for(lambda: "headmap_shards_total{" in httpx.get(f"{url}/metrics").text, 20)  # as the worker counts
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(40) == 0
        assert not up.children()
        assert sorted(path.name for path in (up.data_dir / "logs").iterdir()) == ["web.log", "worker.log"]


WEB, WORKER = "services.embedded.web", "services.embedded.worker"


def killed_and_back(up: Up, module: str) -> None:
    first = up.children()[module]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: up.children().get(module, first) != first, 20)


def test_what_dies_is_started_again_behind_the_same_port_and_nothing_outlives_the_supervisor(tmp_path: Path) -> None:
    with running(tmp_path / "data") as up:
        url = up.url()
        killed_and_back(up, WORKER)
        assert "the worker process was killed by SIGKILL" in up.text
        killed_and_back(up, WEB)
        assert "the web process was killed by SIGKILL" in up.text
        # Who comes in between waits.
        assert httpx.get(f"{url}/health/ready", timeout=120).json()["status"] == "ok"
        wait_for(lambda: up.text.count("ready ") == 2, 20)
        assert "Traceback" not in up.text
        assert len(up.children()) == 2
        worker = up.children()[WORKER]
        os.kill(worker, signal.SIGSTOP)  # so that it outlives the supervisor
        up.process.kill()
        up.process.wait()
        refused_in_one_line({"another cluster runs on": ["--port", "0", "--data-dir", str(up.data_dir)]})
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: not up.children(), 40)


def test_a_web_process_that_cannot_start_ends_it_all_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADMAP_DEVICE", "cuda:77")
    with running(tmp_path / "data") as up:
        assert up.process.wait(120) == 1
        assert "HEADMAP_DEVICE=cuda:77: " in up.text
        assert "starting it again" not in up.text
        assert "Traceback" not in up.text
        assert not up.children()


def test_a_second_ctrl_c_does_not_wait_for_running_requests(tmp_path: Path) -> None:
    with running(tmp_path / "data", drain_seconds=3600) as up:
        picture = base64.b64encode((ROOT / "shared/headmap/demo/samples/0000.png").read_bytes()).decode()
        asked = {"inputs": "x", "images": [picture], "stream": True}
        asked["parameters"] = {"max_new_tokens": 1500, "ignore_eos": True}
        with httpx.stream("POST", f"{up.url()}/generate", json=asked, timeout=60) as answer:
            next(answer.raise_for_status().iter_lines())
            up.process.send_signal(signal.SIGINT)
            wait_for(lambda: "Ctrl-C again" in up.text, 20)
            up.process.send_signal(signal.SIGINT)
            assert up.process.wait(30) == 0
        assert not up.children()
