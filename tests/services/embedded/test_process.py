"""How a child's end is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from headmap.settings import Settings
from services.embedded.process import Process


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
