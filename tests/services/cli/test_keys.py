from __future__ import annotations

import json
from pathlib import Path

import pytest

from headmap.keys import digest_of
from headmap.registry.keys import read_keys
from headmap.registry.session import Database
from headmap.settings import Settings
from tests.services.cli.test_commands import refused, run


def keys(folder: Path, *arguments: object) -> object:
    result = run("keys", *arguments, "--json", "--data-dir", folder)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    made = run("keys", "create", "ci", "--requests-per-minute", 5, "--data-dir", tmp_path)
    assert made.exit_code == 0
    key = made.stdout.strip()
    database = Database(Settings(data_dir=tmp_path).sql_url)
    (filed,) = read_keys(database)
    database.close()
    assert filed.digest == digest_of(key)
    assert key not in made.stderr
    listed = run("keys", "list", "--data-dir", tmp_path)
    assert filed.id in listed.stdout
    assert key not in listed.stdout
    assert filed.digest.hex() not in listed.stdout
    assert run("keys", "revoke", "ci", "--data-dir", tmp_path).exit_code == 0
    (row,) = keys(tmp_path, "list")  # type: ignore[misc]
    assert (row["name"], row["requests_per_minute"]) == ("ci", 5)
    assert row["revoked_at"] is not None


@pytest.mark.parametrize(
    ("options", "scopes"),
    [
        ([], ["infer", "score"]),
        (["--scope", "infer"], ["infer"]),
        (["--scope", "score", "--scope", "admin"], ["admin", "score"]),
    ],
)
def test_a_key_may_what_its_maker_says(tmp_path: Path, options: list[str], scopes: list[str]) -> None:
    made = keys(tmp_path, "create", "ci", *options)
    assert made["scopes"] == scopes  # type: ignore[index]
    assert ", ".join(scopes) in run("keys", "list", "--data-dir", tmp_path).stdout


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    refused(run("keys", "revoke", "nobody", "--data-dir", tmp_path), 1, "nobody")
    run("keys", "create", "ci", "--data-dir", tmp_path)
    refused(run("keys", "create", "ci", "--data-dir", tmp_path), 1, "ci", "revoke it first")
    refused(run("keys", "create", " ", "--data-dir", tmp_path), 2, "name")
    refused(run("keys", "create", "x", "--scope", "root", "--data-dir", tmp_path), 2, "--scope", "'root'", "admin")
