"""Each block of commands in README and docs runs as it stands, against one live `headmap up`, or is named with why not.

Only the address, and the id `d7d7` of a map, are put in; each page's blocks run in order, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import matplotlib
import pytest
from typer.testing import CliRunner

from headmap.settings import DEMO_MODEL
from services.cli.main import app
from tests.services.cli.documented import NOT_RUN, PAGES, ROOT, SHOWN, Block, blocks
from tests.services.embedded.test_up import running, wait_for

RUN = {page: [one for one in blocks(page) if not one.begins(NOT_RUN) and not one.begins(SHOWN)] for page in PAGES}
ANSWER = "K5QB62Z"
"""Of the question about the first sample."""


@dataclass(frozen=True)
class Stack:
    url: str
    data_dir: Path
    map_id: str


def test_no_reason_is_left_over() -> None:
    found = [one for page in PAGES for one in blocks(page)]
    for page, start in (*NOT_RUN, *SHOWN):
        assert any(one.begins({(page, start)}) for one in found), (page, start)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A cluster with the profile that the pages begin with, which is then there when they ask for it, as `stable`."""
    data_dir = tmp_path_factory.mktemp("stack") / "data"
    with running(data_dir) as up, httpx.Client(base_url=up.url(), timeout=60) as client:
        job = client.post("/score", json={"model": DEMO_MODEL, "pages": 40}).json()
        wait_for(lambda: client.get(f"/score/{job['id']}").json()["state"] == "succeeded", 120)
        map_id = client.get(f"/score/{job['id']}").json()["map_id"]
        in_this_process(["maps", "alias", map_id, "stable", "--data-dir", str(data_dir)], "the stack")
        yield Stack(up.url(), data_dir, map_id)


@pytest.fixture
def folder(tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has: the repository's `shared` and `.venv`, and files of the names that examples use."""
    here = tmp_path / "here"
    program = here / ".venv" / "bin" / "headmap"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m services.cli.main "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    samples = ROOT / "shared" / "headmap" / "demo" / "samples"
    (here / "shared").symlink_to(ROOT / "shared")
    (here / "page.png").symlink_to(samples / "0000.png")
    (here / "DIR").symlink_to(Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    (here / "lines.txt").write_text("Das Wasser ist kalt\nder Tee ist heiss\n", encoding="utf-8")
    shutil.make_archive(str(here / "invoices"), "zip", samples)
    (here / ".curlrc").write_text("fail-with-body\n")
    monkeypatch.chdir(here)
    path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name, value in (
        ("PATH", path),
        ("CURL_HOME", str(here)),
        ("PYTHONPATH", f"{ROOT / 'shared'}:{ROOT}"),
        ("HEADMAP_DATA_DIR", str(stack.data_dir)),
    ):
        monkeypatch.setenv(name, value)
    return here


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, found in RUN.items() if found])
def test_its_commands_run(page: str, stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, str] = {}
    for one in RUN[page]:
        with monkeypatch.context() as patched:
            if one.text.startswith("headmap keys"):  # from the first key on the stack would ask for one
                patched.setenv("HEADMAP_DATA_DIR", str(folder / "keys"))
            told[one.line] = run(one, stack)
        if "of BXP?" in one.text or "page.png" in one.text:
            assert ANSWER in told[one.line]
    for shown in blocks(page):
        if shown.text.startswith("57,344 bytes per token"):
            assert shown.text == told[max(line for line in told if line < shown.line)].rstrip()
    for job in httpx.get(f"{stack.url}/score", params={"state": "running"}).json()["items"]:
        httpx.delete(f"{stack.url}/score/{job['id']}")


def run(block: Block, stack: Stack) -> str:
    """What the block prints; a failure names its place."""
    text = re.sub(r"(localhost|127\.0\.0\.1):8000", stack.url.removeprefix("http://"), block.text)
    text = text.replace("d7d7", stack.map_id)
    place = f"{block.page}:{block.line}"
    if block.language == "python":
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(text, place, "exec"), {})
        return said.getvalue()
    commands = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    if re.search(r"[|&$<>]", text) is None and all(words[0].endswith("headmap") for words in commands if words):
        return "".join(in_this_process(words[1:], place) for words in commands if words)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{place}: {done.stdout}{done.stderr}"
    return done.stdout


def in_this_process(words: list[str], place: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{place}: {words}: {done.output}{done.exception!r}"
    return done.stdout
