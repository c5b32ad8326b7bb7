"""`headmap maps push` and `pull` against a Hub on disk. What it refuses: tests/shared/registry/test_map_hub.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.services.cli.test_commands import refused, run
from tests.services.cli.test_json import documented
from tests.shared.registry.fake_hub import WRITER, fake_hub

REPO = "me/reader-head-map"


def told(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    assert set(value) == documented(("maps", str(arguments[1])))
    return value


def test_a_map_travels_over_the_hub_with_all_that_is_known(
    tmp_path: Path, map_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ("--data-dir", tmp_path), ("--data-dir", tmp_path / "theirs")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert run("maps", "note", map_id, "--tag", "prod", "--notes", "n", *ours).exit_code == 0
    with fake_hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pushed = told("maps", "push", map_id[:6], REPO, *ours)
        pulled = told("maps", "pull", REPO, *theirs)
        again = told("maps", "pull", f"{REPO}@{pushed['commit']}", *theirs)
        assert told("maps", "pull", REPO, *ours)["id"] == map_id
        refused(run("maps", "pull", "me/none", *ours), 1, "the Hub has no 'me/none'")
        refused(run("maps", "pull", "none", *ours), 2, "must be OWNER/NAME")
    refused(run("maps", "push", map_id, REPO, *ours), 1, "does not answer")
    assert (pushed["repo"], pushed["revision"], pushed["map_id"]) == (REPO, "main", map_id)
    assert (pulled["created"], pulled["aliases"]) == (True, [])  # the bundled map has `default`
    assert again == {**pulled, "created": False}
    assert (pulled["origin_map_id"], pulled["origin_repo"]) == (map_id, f"{REPO}@{pushed['commit']}")
    known = json.loads(run("maps", "show", map_id, "--json", *ours).stdout)
    same = set(pulled) - {"created", "id", "version", "created_at", "aliases"}
    same = {name for name in same if not name.startswith("origin_")}
    assert {name: pulled[name] for name in same} == {name: known[name] for name in same}
    assert (pulled["tags"], pulled["notes"]) == (["prod"], "n")
