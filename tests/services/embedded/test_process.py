"""How a child's end is told, how its log rotates, and when it is given up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headmap.settings import Settings
from services.embedded import process as module
from services.embedded.process import Process
from services.embedded.supervisor import Notices, Supervisor
from tests.integration.servers import free_port


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL, perhaps for lack of memory"),
        ("import os; os.kill(os.getpid(), 15)", "was killed by SIGTERM"),
    ],
)
def test_an_end_is_told_by_its_status_or_its_signals_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    (tmp_path / "child.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = Process("web", ["child"], Settings(data_dir=tmp_path / "data"))
    assert process.start_again() is None  # not started yet
    process.start()
    try:
        deadline = time.monotonic() + 30
        while process.code is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        trouble = process.start_again()
        assert trouble is not None
        assert f"the web process {told}; starting it again in 1 s" in trouble
    finally:
        process.end()


@contextmanager
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> Iterator[Process]:
    (tmp_path / "child.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = Process("web", ["child"], Settings(data_dir=tmp_path / "data"))
    process.start()
    try:
        yield process
    finally:
        process.end()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_log_rotates_under_the_child_that_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_LOG", 10_000)
    line = "import os, time\nwhile True: os.write(2, b'x' * 99 + b'\\n'); time.sleep(0.001)"
    with running(tmp_path, monkeypatch, line) as process:
        old = process.log.with_suffix(".log.1")
        for _ in range(2):
            wait_for(lambda: process.log.is_file() and process.log.stat().st_size > 10_000)
            process.rotate()
            size = process.log.stat().st_size
            assert old.stat().st_size > 10_000 > size
        wait_for(lambda: process.log.stat().st_size > size)  # it goes on in the same file
        assert b"\0" not in process.log.read_bytes()
        process.log.unlink()
        process.rotate()


def test_a_stopped_child_is_given_up_after_a_while_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path, monkeypatch, "import time; time.sleep(60)") as process:
        child = process._child
        assert child is not None
        process.give_up_on(not process.stopped, seconds=0)
        assert process.code is None
        os.kill(child.pid, signal.SIGSTOP)
        wait_for(lambda: process.stopped)
        process.give_up_on(not process.stopped, seconds=3600)
        assert process.code is None
        process.give_up_on(not process.stopped, seconds=0)
        assert process.code == -signal.SIGKILL
        assert "the web process did not answer for 0 s and was killed; starting it again" in str(process.start_again())


def test_a_child_that_goes_on_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch, "import time; time.sleep(60)") as process:
        child = process._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        wait_for(lambda: process.stopped)
        os.kill(child.pid, signal.SIGCONT)
        wait_for(lambda: not process.stopped)


def test_the_supervisor_replaces_a_web_process_that_does_not_answer_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    notices = Notices(ready=told.append, trouble=told.append)
    with running(tmp_path, monkeypatch, "import time; time.sleep(60)") as process:
        settings = Settings(data_dir=tmp_path / "data")
        cluster = Supervisor(settings, host="127.0.0.1", port=free_port(), notices=notices, hang_seconds=0)
        worker = Process("worker", ["child"], settings)
        worker.start()
        cluster._web, cluster._worker = process, worker
        cluster.check()
        assert process.code is None  # it has not served yet: models may be loading
        cluster._answered = cluster._answered_once = True
        cluster.check()
        assert [line.partition(";")[0] for line in told] == ["the web process did not answer for 0 s and was killed"]
        assert worker.code is None
        cluster.stop()
