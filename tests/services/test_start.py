"""Processes that start with wrong settings say so in one line, and end with status 2."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ENTRIES = (
    "services.migrate",
    "services.inference",
    "services.embedded.worker",
    "services.cli.main",
)


@pytest.mark.slow
def test_wrong_settings_are_one_line_and_status_2() -> None:
    told = "headmap: HEADMAP_MAX_RUNNING: input should be a valid integer, unable to parse string as an integer"
    environment = {**os.environ, "HEADMAP_MAX_RUNNING": "many", "PYTHONPATH": os.pathsep.join(sys.path)}
    children = {
        entry: subprocess.Popen(
            [sys.executable, "-m", entry, *(["models"] if entry == "services.cli.main" else [])],
            stdin=subprocess.PIPE,  # held open: the embedded processes end with it
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for entry in ENTRIES
    }
    for entry, child in children.items():
        assert child.wait(60) == 2, entry
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read() == "", entry
        assert child.stderr.read() == f"{told}, got 'many'\n", entry
