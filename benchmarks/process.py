"""A service as a process of its own, so that its memory and its end can be measured."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx

_START_SECONDS = 600
_END_SECONDS = 120


class ServerProcess:
    """A running `python -m services.inference`, or of another service."""

    def __init__(self, child: subprocess.Popen[bytes], url: str) -> None:
        self.child, self.url = child, url

    def rss_mib(self) -> float:
        """Resident memory by the kernel's account."""
        seen = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.child.pid)], capture_output=True, text=True, check=True
        )
        return int(seen.stdout) / 1024

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(_END_SECONDS)


@contextmanager
def server_process(
    data_dir: Path, environment: Mapping[str, str] | None = None, *, service: str = "inference"
) -> Iterator[ServerProcess]:
    """The service on a free port of loopback, its log in `data_dir`. Raises RuntimeError where it does not start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {**os.environ, "HEADMAP_DATA_DIR": str(data_dir), "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})}
    log_file = data_dir / f"{service}.log"
    with log_file.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", f"services.{service}", "--port", str(port)], env=given, stdout=log, stderr=log
        )
    server = ServerProcess(child, f"http://127.0.0.1:{port}")
    try:
        _wait_until_ready(server, log_file)
        yield server
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _wait_until_ready(server: ServerProcess, log_file: Path) -> None:
    deadline = monotonic() + _START_SECONDS
    while True:
        try:
            if httpx.get(f"{server.url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if server.child.poll() is not None or monotonic() > deadline:
            raise RuntimeError(f"the server did not start: {log_file.read_text(encoding='utf-8')[-2000:]}")
        sleep(0.2)
