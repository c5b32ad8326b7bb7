"""`headmap policies`: what it prints, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from headmap.settings import DEMO_MODEL
from tests.services.cli.test_commands import refused, run


def test_a_policy_is_written_listed_and_deleted(tmp_path: Path, map_id: str) -> None:
    data_dir = ("--data-dir", tmp_path)
    assert "no policies yet" in run("policies", "list", *data_dir).stdout
    written = run("policies", "set", DEMO_MODEL, "documents", "--ratio", 0.2, "--map", "default", *data_dir)
    assert written.stdout.startswith(f"{DEMO_MODEL}@documents is version 1: sparsemm, ratio 0.2")
    run("policies", "set", DEMO_MODEL, "documents", "--method", "full", *data_dir)
    assert "version 2: full" in run("policies", "show", DEMO_MODEL, "documents", *data_dir).stdout
    assert "documents" in run("policies", "list", "--model", DEMO_MODEL, *data_dir).stdout
    assert "is deleted" in run("policies", "delete", DEMO_MODEL, "documents", *data_dir).stdout
    told = run("policies", "history", DEMO_MODEL, "documents", *data_dir).stdout
    assert [line.split()[2] for line in told.splitlines()[1:]] == ["3", "2", "1"]
    assert "deleted" in told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["documents"], "--budget and --ratio"),
        (["documents", "--ratio", 0.2, "--method", "h2o"], "--method"),
        (["documents", "--ratio", 0.2, "--method", "snapkv", "--map", "default"], "--map"),
        (["documents", "--ratio", 0.2, "--method", "full"], "--ratio"),
        (["documents", "--budget", 8, "--window", 8], "--window"),
        (["documents", "--ratio", 0.2, "--allocation", "best"], "--allocation"),
        (["snapkv-0.2", "--ratio", 0.2], "snapkv-0.2"),
    ],
)
def test_wrong_values_end_with_2_and_name_the_option(tmp_path: Path, words: list[object], named: str) -> None:
    refused(run("policies", "set", DEMO_MODEL, *words, "--data-dir", tmp_path), 2, named)


def test_what_is_not_there_or_was_overtaken_ends_with_1(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path)
    for command in ("show", "history", "delete"):
        refused(run("policies", command, DEMO_MODEL, "never", *data_dir), 1, "'never'")
    ratio = ("--ratio", 0.2)
    refused(run("policies", "set", DEMO_MODEL, "a", *ratio, "--map", "nope", *data_dir), 1, "'nope'")
    run("policies", "set", DEMO_MODEL, "a", *ratio, *data_dir)
    refused(run("policies", "set", DEMO_MODEL, "a", *ratio, "--instead-of", 7, *data_dir), 1, "version 1")
