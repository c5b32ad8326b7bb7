"""`headmap datasets`, `headmap pages --kind` and `headmap score --dataset`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headmap.settings import DEMO_MODEL
from services.cli.main import app
from tests.shared.datasets.archives import as_zip, files, write_folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_folder_and_its_archive_are_one_dataset(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path / "data")
    folder = write_folder(tmp_path / "pages", files())
    (tmp_path / "pages.zip").write_bytes(as_zip(files()))
    added = run("datasets", "add", "mine", folder, *data_dir)
    assert added.exit_code == 0, added.output
    assert added.stdout.startswith("mine  2 pages")
    assert "there already" in run("datasets", "add", "mine", tmp_path / "pages.zip", *data_dir).stdout
    listed = json.loads(run("datasets", "list", "--json", *data_dir).stdout)
    assert [(one["name"], one["pages"]) for one in listed["items"]] == [("mine", 2)]
    assert "receipts" in listed["built_in"]
    table = run("datasets", "list", *data_dir).stdout
    assert "mine" in table
    assert "synthdog-en" in table
    assert run("datasets", "rm", "mine", *data_dir).exit_code == 0
    gone = run("datasets", "rm", "mine", *data_dir)
    assert (gone.exit_code, "'mine'" in gone.stderr) == (1, True)


def test_check_names_what_is_missing_and_clears_what_nobody_needs(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path / "data")
    assert run("datasets", "add", "mine", write_folder(tmp_path / "pages", files()), *data_dir).exit_code == 0
    (blob,) = (tmp_path / "data" / "blobs").glob("*/*")
    orphan = blob.parents[1] / "00" / ("0" * 64)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of an upload that broke off")
    os.utime(orphan, (0, 0))
    seen = run("datasets", "check", "--read", *data_dir)
    assert (seen.exit_code, "1 orphans, 27 bytes" in seen.stdout) == (0, True)
    assert orphan.exists()
    assert json.loads(run("datasets", "check", "--clear", "--json", *data_dir).stdout)["cleared"] == 1
    assert not orphan.exists()
    blob.write_bytes(b"damaged")
    damaged = run("datasets", "check", "--read", *data_dir)
    assert (damaged.exit_code, f"dataset mine: 1 damaged: {blob.name}" in damaged.stdout) == (1, True)
    blob.unlink()
    missing = run("datasets", "check", *data_dir)
    assert (missing.exit_code, f"dataset mine: 1 missing: {blob.name}" in missing.stdout) == (1, True)


@pytest.mark.parametrize(("name", "code", "said"), [("receipts", 1, "built-in"), ("a b", 2, "letters")])
def test_a_name_that_cannot_be_is_one_line(tmp_path: Path, name: str, code: int, said: str) -> None:
    result = run("datasets", "add", name, write_folder(tmp_path / "pages", files()), "--data-dir", tmp_path / "data")
    assert result.exit_code == code
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_pages_of_a_kind_are_the_ones_a_job_scores(tmp_path: Path) -> None:
    from headmap.datasets.page_folder import PageFolder
    from headmap.datasets.sources import MADE_UP

    assert run("pages", "--kind", "tables", "--count", 1, "--seed", 3, "--out", tmp_path).exit_code == 0
    assert PageFolder(tmp_path).page(0).words == MADE_UP["tables"](3, 0).words


def test_an_unknown_kind_names_those_there_are(tmp_path: Path) -> None:
    result = run("pages", "--kind", "novels", "--count", 1, "--out", tmp_path)
    assert (result.exit_code, "receipts" in result.stderr) == (2, True)


@pytest.mark.slow
def test_score_reads_a_folder_and_the_map_says_which_pages(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path / "data")
    folder = write_folder(tmp_path / "mine", files())
    result = run("score", DEMO_MODEL, "--dataset", folder, "--max-new-tokens", 300, *data_dir)
    assert result.exit_code == 0, result.output
    shown = json.loads(run("maps", "show", result.stdout.split()[1], "--json", *data_dir).stdout)
    (kept,) = json.loads(run("datasets", "list", "--json", *data_dir).stdout)["items"]
    assert (shown["dataset"], shown["pages"]) == ("mine", 2)
    assert shown["dataset_checksum"] == kept["checksum"]
    assert shown["hits"] > 0
