"""An archive is looked through in a process that may be slow, be killed or want all memory: its sender is told."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headmap.datasets.check_process import ArchiveCheck
from headmap.datasets.checking import check_archive
from headmap.errors import InvalidDataset, Unavailable
from headmap.settings import Settings
from tests.shared.datasets.archives import as_zip, files

SETTINGS = Settings()


@contextmanager
def checking(data: bytes, *, seconds: float = 60.0) -> Iterator[ArchiveCheck]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        with ArchiveCheck(file, SETTINGS, seconds=seconds) as check:
            yield check


def waiting() -> bytes:
    """An archive whose pages are still to be asked for once it has been found right."""
    return as_zip(files())


def process(check: ArchiveCheck) -> int:
    return check._sandbox.pid


def test_it_finds_what_is_found_in_this_process_and_hands_out_the_same_rows_twice() -> None:
    with check_archive(io.BytesIO(as_zip(files(3))), SETTINGS) as here, checking(as_zip(files(3))) as check:
        there = check.upload()
        assert (there.pages, there.words, there.questions) == (here.pages, here.words, here.questions)
        assert (there.size, there.checksum) == (here.size, here.checksum)
        assert list(there.rows()) == list(here.rows()) == list(there.rows())


def test_a_refusal_names_what_is_wrong() -> None:
    with checking(as_zip(files(file="gone.png"))) as check, pytest.raises(InvalidDataset, match=r"'gone\.png'"):
        check.upload()


def test_one_that_takes_too_long_is_given_up() -> None:
    with checking(waiting(), seconds=0.01) as check, pytest.raises(InvalidDataset, match=r"within 0\.01 seconds"):
        check.upload()


def test_one_that_is_killed_is_told_as_such() -> None:
    with checking(waiting()) as check:
        rows = check.upload().rows()
        check.give_up()
        with pytest.raises(Unavailable, match="ended"):
            list(rows)


def test_giving_up_wakes_a_thread_that_waits() -> None:
    with checking(waiting()) as check:
        check.upload()  # nothing more comes unasked
        threading.Timer(0.05, check.give_up).start()
        with pytest.raises(Unavailable):
            check.upload()


def test_it_ends_with_its_block_and_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADMAP_API_KEYS", "a-secret")
    with checking(waiting()) as check:
        check.upload()
        number = process(check)
        assert b"a-secret" not in Path(f"/proc/{number}/environ").read_bytes()
        limits = Path(f"/proc/{number}/limits").read_text()
        assert "unlimited" not in next(line for line in limits.splitlines() if "address space" in line)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_an_index_of_one_line_costs_this_process_nothing() -> None:
    line = b'{"file": "a.png", "words": [' + b"[]," * (20 * 2**20) + b"[]]}"
    data = as_zip({"pages.jsonl": line}, method=zipfile.ZIP_DEFLATED)
    assert len(data) < 100_000
    with checking(data) as check, pytest.raises(InvalidDataset, match="line 1: more than"):
        check.upload()
