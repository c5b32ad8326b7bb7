"""Starts the cluster's processes, watches them, and ends them.

There is one web process (scoring and inference behind one port) and one scoring worker. Each is started again when it
ends, after a longer wait each time. One that lives but does not answer is ended first. A web process that never served
ends the cluster, because another start would fail too. The socket stays open here, so clients that come between two web
processes wait for the next one. Children end soon after the supervisor, however it ends. Until then they hold the lock
of the data directory, so no second cluster starts beside them.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

import httpx

from headmap.errors import HeadmapError
from headmap.models import find_model
from headmap.registry.bundled import prepare_registry
from headmap.registry.migrations import check_revision
from headmap.settings import Settings
from services.embedded.metrics_folder import metrics_folder
from services.embedded.process import Process

_TICK_SECONDS = 0.2
_PROBE_SECONDS = 5.0
_END_GRACE_SECONDS = 15.0


class ClusterError(HeadmapError):
    """The cluster cannot start, or ended by itself; the detail is for the terminal."""

    code, title = "cluster_error", "Cluster error"


@dataclass(frozen=True)
class Notices:
    """The supervisor's messages while it runs. Each is called with a line or a URL."""

    ready: Callable[[str], None]
    trouble: Callable[[str], None]


class Supervisor:
    """Runs a cluster from `start` to `stop`; use it as a context manager, and `watch` while it runs.

    Entering raises ClusterError for a port or data directory in use, ModelNotFound and UnsupportedModel for a model
    that cannot be served, RegistryUnavailable for a registry that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        port: int,
        notices: Notices,
        hurry: Callable[[], bool] = lambda: False,
        hang_seconds: float = 30.0,
    ) -> None:
        """While the cluster ends, `hurry()` is asked again and again; once true, the other processes are killed.

        A process that is stopped, or no longer answers, is replaced after `hang_seconds`.
        """
        self.settings = settings
        self._hurry = hurry
        self._host, self._port = host, port
        self._notices = notices
        self._lock: IO[str] | None = None
        self._socket: socket.socket | None = None
        self._web: Process | None = None
        self._worker: Process | None = None
        self._hang_seconds, self._probe_at = hang_seconds, 0.0
        self._answered = self._answered_once = False

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
        if self.settings.database_url is None:
            prepare_registry(self.settings)
        else:
            check_revision(self.settings)  # others may be using it
        shutil.rmtree(metrics_folder(self.settings), ignore_errors=True)
        file, lock = self._socket.fileno(), self._lock.fileno()
        self._web = Process("web", ["services.embedded.web", str(file)], self.settings, keep=[file, lock])
        self._worker = Process("worker", ["services.embedded.worker"], self.settings, keep=[lock])
        self._web.start()
        self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def watch(self, until: Callable[[], bool]) -> None:
        """Keep the cluster running until `until()` is true. Raises ClusterError if the web process cannot start."""
        while not until():
            self.check()
            time.sleep(_TICK_SECONDS)

    def check(self) -> None:
        """Announce a web process that answers, and restart ended processes. Raises ClusterError as `watch` does."""
        web, worker = self._web, self._worker
        if web is None or worker is None:
            raise ClusterError("the cluster has not been started")
        if web.code is not None:
            self._answered = False
            if not self._answered_once:
                raise ClusterError(f"the web process {web.ending}: {web.last_words()} (log: {web.log})")
        elif not self._answered and self._answers():
            self._answered = self._answered_once = True
            self._notices.ready(self.url)
        self._look_for_hangs(web, worker)
        web.rotate()
        worker.rotate()
        for process in (web, worker) if self._answered_once else (worker,):
            trouble = process.start_again()
            if trouble is not None:
                self._notices.trouble(trouble)

    def _look_for_hangs(self, web: Process, worker: Process) -> None:
        if time.monotonic() < self._probe_at:
            return
        web.give_up_on(not web.stopped and (not self._answered or self._answers()), self._hang_seconds)
        worker.give_up_on(not worker.stopped, self._hang_seconds)
        self._probe_at = time.monotonic() + min(_PROBE_SECONDS, self._hang_seconds / 3)

    def stop(self) -> None:
        """End everything: let running requests finish within their time, or less in a hurry, then end the processes."""
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
        """Whether the web process has answered since it was last started."""
        return self._answered

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=1, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that counts SIGINT, SIGTERM and SIGHUP so far. Meanwhile these signals do nothing else."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield lambda: len(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lock(data_dir: Path) -> IO[str]:
    """Lock the data directory for this cluster, for as long as this process or a child has the file open."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ClusterError(
            f"another cluster runs on {data_dir}, or finishes its last requests; stop it, or choose another --data-dir"
        ) from error
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
