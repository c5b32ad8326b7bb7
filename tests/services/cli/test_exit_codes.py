"""How commands end, as docs/command-line.md says: 0, 1 failed, 2 wrong usage, 3 maps differ, 130 interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headmap.models import DEMO_FOLDER
from headmap.settings import DEMO_MODEL
from tests.services.cli.test_commands import refused, run
from tests.services.embedded.test_up import ROOT, wait_for


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "nothing"),
        (["score"], "model"),
        (["up", "--port", "x"], "--port"),
        (["up", "--port", "99999"], "--port"),
        (["show-head", "d7d7", "first", "0"], "layer"),
        (["maps", "import", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_what_cannot_be_parsed_ends_with_2(words: list[str], named: str) -> None:
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_values_end_with_2_and_name_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    data_dir = ("--data-dir", tmp_path / "data")
    ask = ("generate", DEMO_MODEL, "What?", "--image", tmp_path / "a.png", *data_dir)
    refused(run(*ask, "--method", "h2o"), 2, "--method", "'h2o'", "sparsemm")
    refused(run(*ask, "--budget", 9, "--ratio", 0.2), 2, "--budget and --ratio")
    refused(run(*ask, "--map", "stable"), 2, "--map", "'stable'")
    refused(run("score", DEMO_MODEL, "--pages", 5, "--min-pages", 3, *data_dir), 2, "min_pages")
    refused(run("bench", "efficiency", "--model", DEMO_MODEL), 2, "--model", "--part requests")
    refused(run("maps", "list", "--data-dir", tmp_path / "a.png"), 2, "--data-dir", "a.png", "folder")


def test_a_registry_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite3").write_text("this is text, and long enough for a header " * 9)
    refused(run("maps", "list", "--data-dir", tmp_path), 1, "registry.sqlite3", "not a database")


def test_weights_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 40)
    done = run("score", folder, "--pages", 1, "--data-dir", tmp_path / "data")
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    drawing = subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", "pages", "--count", "100000", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )
    wait_for(lambda: (tmp_path / "0000.png").exists(), 60)
    drawing.send_signal(signal.SIGINT)
    _, told = drawing.communicate(timeout=60)
    assert drawing.returncode == 130
    assert told.endswith("headmap: interrupted\n")
