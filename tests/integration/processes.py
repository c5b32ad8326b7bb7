"""Our processes to start, kill, stop and continue, and waiting for what they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headmap.settings import Settings
from tests.integration.servers import free_port

ROOT = Path(__file__).parents[2]


class Process:
    """`python -m ...` with the settings as its environment, in a process group of its own."""

    def __init__(self, settings: Settings, name: str, arguments: Sequence[str]) -> None:
        values = settings.model_dump(mode="json", exclude_unset=True, exclude={"api_keys"})
        if settings.api_keys:
            values["api_keys"] = [key.get_secret_value() for key in settings.api_keys]
        environment = {f"HEADMAP_{name.upper()}": _as_text(value) for name, value in values.items()}
        paths = os.pathsep.join([str(ROOT / "shared"), str(ROOT)])
        self.log = settings.data_dir / f"{name}-{time.monotonic_ns()}.log"
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env={**os.environ, **environment, "PYTHONPATH": paths},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """To the process and its children."""
        os.killpg(self._process.pid, number)

    def children(self) -> list[int]:
        """Process ids of its direct children."""
        tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in tasks.read_text().split()]

    def tree(self) -> list[int]:
        """Its process id, and those of the processes that any of its threads has started."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [self._process.pid, *(int(pid) for task in tasks for pid in task.read_text().split())]

    def kill_children(self) -> None:
        """As the kernel does when memory runs out: the process with the model is the largest."""
        for child in self.children():
            os.kill(child, signal.SIGKILL)

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

    def entries(self) -> list[dict[str, object]]:
        """What it logged, where a line is one of our JSON objects."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


class Worker(Process):
    """A scoring worker without a model: `pause` seconds a page, scores of `model`'s shape, metrics at `url`.

    A job of seed `poison` kills the process that scores it; `broken_device` fails every shard of every job. The worker
    finds that it cannot load the model that it `lacks`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: str = "solo",
        pause: float = 0.05,
        model: str = "",
        poison: int = -1,
        broken_device: bool = False,
        lacks: str = "",
    ) -> None:
        self.port = free_port()
        arguments = ["tests.integration.fake_worker", f"--pool={pool}", f"--pause={pause}", f"--poison={poison}"]
        arguments += [f"--metrics={settings.data_dir / f'metrics-{self.port}'}", f"--metrics-port={self.port}"]
        arguments += ["--broken-device"] if broken_device else []
        arguments += [f"--lacks={lacks}"] if lacks else []
        super().__init__(settings, "worker", [*arguments, *([f"--model={model}"] if model else [])])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Inference(Process):
    """The inference service with the bundled model, on a free port."""

    def __init__(self, settings: Settings) -> None:
        self.port = free_port()
        super().__init__(settings, "inference", ["services.inference", "--port", str(self.port)])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Api(Process):
    """The scoring API on `port`, a free one where none is given."""

    def __init__(self, settings: Settings, port: int | None = None) -> None:
        self.port = port or free_port()
        super().__init__(settings, "api", ["services.scoring", "--port", str(self.port)])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)
