"""Start the cluster's processes, watch over them, end them.

One web process (scoring and inference behind one port) and one scoring worker. A worker that dies is started again,
later each time; a web process that dies ends the cluster. Nothing outlives the supervisor, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

import httpx

from headmap.errors import HeadmapError
from headmap.models import find_model
from headmap.registry.migrations import migrate
from headmap.settings import Settings
from services.embedded.metrics_folder import metrics_folder

_TICK_SECONDS = 0.2
_FIRST_BACK_OFF, _LAST_BACK_OFF = 1.0, 30.0
_STABLE_SECONDS = 60.0
_LARGEST_LOG = 10 * 2**20
_END_GRACE_SECONDS = 15.0


class ClusterError(HeadmapError):
    """The cluster cannot start, or ended by itself; the detail is for the terminal."""

    code, title = "cluster_error", "Cluster error"


@dataclass(frozen=True)
class Notices:
    """What the supervisor tells while it runs; each is called with a line or a URL."""

    ready: Callable[[str], None]
    trouble: Callable[[str], None]


class Process:
    """One child: its own session (a terminal's Ctrl-C reaches the supervisor alone), a lifeline, a log file."""

    def __init__(self, name: str, arguments: Sequence[str], settings: Settings, keep: Sequence[int] = ()) -> None:
        self.name = name
        self.log = settings.data_dir / "logs" / f"{name}.log"
        self._arguments, self._settings, self._keep = arguments, settings, keep
        self._child: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.is_file() and self.log.stat().st_size > _LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603  our own modules, no shell
                [sys.executable, "-m", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(self._settings),
                pass_fds=self._keep,
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    @property
    def code(self) -> int | None:
        """The exit status; None while it runs."""
        return None if self._child is None else self._child.poll()

    def terminate(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def end(self) -> None:
        """Kill it where it still runs."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()

    def last_words(self) -> str:
        """The last message of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
        for line in reversed(lines[-50:]):
            try:
                entry = json.loads(line)
            except ValueError:
                return line.strip()
            if isinstance(entry, dict) and entry.get("level") in ("error", "critical", "warning"):
                exception = str(entry.get("exception", "")).strip().splitlines()
                return exception[-1] if exception else str(entry.get("message", ""))
        return "no message"


class Supervisor:
    """Runs a cluster from `start` to `stop`; use it as a context manager, and `watch` while it runs.

    Entering raises ClusterError for a port or data directory in use, ModelNotFound and UnsupportedModel for a model
    that cannot be served, RegistryUnavailable where the registry cannot be migrated.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        port: int,
        notices: Notices,
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        """`hurry()` is asked while it ends: once true, what still runs is killed."""
        self.settings = settings
        self._hurry = hurry
        self._host, self._port = host, port
        self._notices = notices
        self._lock: IO[str] | None = None
        self._socket: socket.socket | None = None
        self._web: Process | None = None
        self._worker = Process("worker", ["services.embedded.worker"], settings)
        self._back_off = _FIRST_BACK_OFF
        self._restart_at: float | None = None
        self._announced = False

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104  told, not bound
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self._port}"

    def __enter__(self) -> Self:
        for name in self.settings.models:
            find_model(name, self.settings)
        self._lock = _lock(self.settings.data_dir)
        self._socket = _bind(self._host, self._port)
        self._port = self._socket.getsockname()[1]
        migrate(self.settings)
        shutil.rmtree(metrics_folder(self.settings), ignore_errors=True)
        file = self._socket.fileno()
        self._web = Process("web", ["services.embedded.web", str(file)], self.settings, keep=[file])
        self._web.start()
        self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def watch(self, until: Callable[[], bool]) -> None:
        """Keep the cluster running until `until()` holds. Raises ClusterError when the web process ends."""
        while not until():
            self.check()
            time.sleep(_TICK_SECONDS)

    def check(self) -> None:
        """Look once: announce readiness, start a worker that ended again. Raises ClusterError as `watch`."""
        self._look_at_web()
        self._look_at_worker()

    def stop(self) -> None:
        """End everything, running requests first; takes no longer than they are given, and less in a hurry."""
        processes = [process for process in (self._web, self._worker) if process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self.settings.drain_seconds + _END_GRACE_SECONDS
        while any(process.code is None for process in processes):
            if self._hurry() or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for process in processes:
            process.end()
        if self._socket is not None:
            self._socket.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def ready(self) -> bool:
        """Whether the web process has answered."""
        return self._announced

    def _look_at_web(self) -> None:
        web = self._web
        if web is None:
            raise ClusterError("the cluster has not been started")
        if web.code is not None:
            raise ClusterError(f"the web process ended with {web.code}: {web.last_words()} (log: {web.log})")
        if not self._announced and self._answers():
            self._announced = True
            self._notices.ready(self.url)

    def _look_at_worker(self) -> None:
        worker, now = self._worker, time.monotonic()
        if worker.code is None:
            if now - worker.started_at > _STABLE_SECONDS:
                self._back_off = _FIRST_BACK_OFF
            return
        if self._restart_at is None:
            self._restart_at = now + self._back_off
            self._notices.trouble(
                f"the scoring worker ended with {worker.code}; starting it again in {self._back_off:g} s "
                f"(log: {worker.log})"
            )
            self._back_off = min(2 * self._back_off, _LAST_BACK_OFF)
        elif now >= self._restart_at:
            self._restart_at = None
            worker.start()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=1, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that tells how many of SIGINT, SIGTERM and SIGHUP came; they do nothing else meanwhile."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: len(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(settings: Settings) -> dict[str, str]:
    """The children's environment: what the command line decided, and threads that wait without spinning."""
    environment = dict(os.environ)
    environment["HEADMAP_DATA_DIR"] = str(settings.data_dir)
    environment["HEADMAP_MODELS"] = json.dumps(list(settings.models))
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two processes share the cores
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    return environment


def _lock(data_dir: Path) -> IO[str]:
    """Take the data directory for this cluster alone, for as long as the file stays open."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ClusterError(f"another cluster runs on {data_dir}; stop it, or choose another --data-dir") from error
    return file


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: clients are refused, and do not hang, until the service is up."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ClusterError(f"--host {host}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ClusterError(f"port {port} on {host} cannot be used: {error.strerror}; choose another --port") from error
    return bound
