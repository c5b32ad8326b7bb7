"""Worker processes to start, kill, stop and continue; and waiting for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from headmap.settings import Settings

ROOT = Path(__file__).parents[2]


class Worker:
    """A worker in a process group of its own."""

    def __init__(self, settings: Settings, *, pool: str = "solo", pause: float = 0.05) -> None:
        values = settings.model_dump(mode="json", exclude_unset=True, exclude={"api_keys"})
        environment = {f"HEADMAP_{name.upper()}": str(value) for name, value in values.items()}
        paths = os.pathsep.join([str(ROOT / "shared"), str(ROOT)])
        self.log = settings.data_dir / f"worker-{time.monotonic_ns()}.log"
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.fake_worker", pool, str(pause)],
                env={**os.environ, **environment, "PYTHONPATH": paths},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """To the worker and its children."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    def terminate(self) -> int:
        """Ask it to go, as `docker stop` does: its main process only. Returns the exit code."""
        self._process.terminate()
        return self._process.wait(30)

    def end(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
