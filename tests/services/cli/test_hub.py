"""`headmap maps push` and `pull` against a Hub on disk, through the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headmap.models import HEAD_MAP
from tests.services.cli.test_commands import refused, run
from tests.services.cli.test_json import documented
from tests.shared.registry.fake_hub import READER, WRITER, FakeHub, fake_hub

REPO = "me/reader-head-map"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path / "hub") as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield served


def told(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    assert set(value) == documented(("maps", str(arguments[1])))
    return value


@pytest.fixture
def ours(tmp_path: Path, map_id: str) -> tuple[str, Path]:
    return "--data-dir", tmp_path


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[str, Path]:
    """A registry of its own, which has the bundled map alone."""
    return "--data-dir", tmp_path / "theirs"


def test_a_map_travels_over_the_hub_with_all_that_is_known(
    hub: FakeHub, map_id: str, ours: tuple[str, Path], theirs: tuple[str, Path]
) -> None:
    assert run("maps", "note", map_id, "--tag", "prod", "--notes", "n", *ours).exit_code == 0
    pushed = told("maps", "push", map_id[:6], REPO, *ours)
    assert (pushed["repo"], pushed["revision"], pushed["map_id"]) == (REPO, "main", map_id)
    pulled = told("maps", "pull", REPO, *theirs)
    assert (pulled["created"], pulled["aliases"]) == (True, [])  # the bundled map has `default`
    assert (pulled["origin_map_id"], pulled["origin_repo"]) == (map_id, f"{REPO}@{pushed['commit']}")
    known = json.loads(run("maps", "show", map_id, "--json", *ours).stdout)
    same = set(pulled) - {"created", "id", "version", "created_at", "aliases"}
    same = {name for name in same if not name.startswith("origin_")}
    assert {name: pulled[name] for name in same} == {name: known[name] for name in same}
    assert (pulled["tags"], pulled["notes"]) == (["prod"], "n")
    assert told("maps", "pull", f"{REPO}@{pushed['commit']}", *theirs) == {**pulled, "created": False}
    assert told("maps", "pull", REPO, *ours)["id"] == map_id


def test_a_repository_has_the_file_its_checksum_and_a_card(hub: FakeHub, map_id: str, ours: tuple[str, Path]) -> None:
    assert run("maps", "note", map_id, "--tag", "a: b", *ours).exit_code == 0
    told("maps", "push", map_id, REPO, *ours)
    files = hub.files(REPO)
    assert set(files) == {".gitattributes", HEAD_MAP, f"{HEAD_MAP}.sha256", "README.md"}
    assert files[HEAD_MAP].decode() == run("maps", "export", map_id, *ours).stdout
    assert files[f"{HEAD_MAP}.sha256"].decode() == f"{hashlib.sha256(files[HEAD_MAP]).hexdigest()}  {HEAD_MAP}\n"
    _, metadata, text = files["README.md"].decode().split("---\n", 2)
    card = yaml.safe_load(metadata)
    assert (card["library_name"], card["tags"][-1]) == ("headmap", "a: b")
    for told_of in (json.loads(files[HEAD_MAP])["revision"], map_id, "| pages | `3` |", f"headmap maps pull {REPO}"):
        assert told_of in text


def test_a_repository_is_private_unless_public_is_said(hub: FakeHub, map_id: str, ours: tuple[str, Path]) -> None:
    told("maps", "push", map_id, REPO, *ours)
    told("maps", "push", map_id, "me/open", "--public", *ours)
    assert hub.private == {REPO}


def test_a_revision_is_a_branch_which_is_made(
    hub: FakeHub, map_id: str, ours: tuple[str, Path], theirs: tuple[str, Path]
) -> None:
    assert told("maps", "push", map_id, f"{REPO}@tried", *ours)["revision"] == "tried"
    assert set(hub.files(REPO)) == {".gitattributes"}
    refused(run("maps", "pull", REPO, *theirs), 1, "no map in it")
    assert told("maps", "pull", f"{REPO}@tried", *theirs)["created"]


def test_a_later_map_replaces_its_card_and_no_other_readme(hub: FakeHub, map_id: str, ours: tuple[str, Path]) -> None:
    told("maps", "push", map_id, REPO, *ours)
    assert run("maps", "note", map_id, "--tag", "later", *ours).exit_code == 0
    assert told("maps", "push", map_id, REPO, *ours)["card"]
    assert b"later" in hub.files(REPO)["README.md"]
    hub.commit("me/model", {"README.md": b"# My model\n"})
    done = run("maps", "push", map_id, "me/model", *ours)
    assert (done.exit_code, "stays as it is" in done.stderr) == (0, True)
    assert hub.files("me/model")["README.md"] == b"# My model\n"


def test_what_the_hub_refuses_is_said_in_a_line(
    hub: FakeHub, map_id: str, ours: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told("maps", "push", map_id, REPO, *ours)
    for name, code, words in (
        ("me/none", 1, "the Hub has no 'me/none'"),
        (f"{REPO}@none", 1, "no such revision"),
        ("none", 2, "must be OWNER/NAME"),
        (f"{REPO}@", 2, "must be OWNER/NAME"),
        ("a--b/..", 2, "repo: 'a--b/..'"),
    ):
        refused(run("maps", "pull", name, *ours), code, words)
    monkeypatch.setenv("HF_TOKEN", READER)
    refused(run("maps", "push", map_id, "me/other", *ours), 1, "refuses 'me/other' (status 403)", "HF_TOKEN")
    refused(run("maps", "push", map_id, REPO, *ours), 1, "refuses", "status 403")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    hub.fault = 500
    refused(run("maps", "pull", REPO, *ours), 1, "status 500")


def test_no_network_is_said_in_a_line(
    tmp_path: Path, map_id: str, ours: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    refused(run("maps", "pull", REPO, *ours), 1, "does not answer")
    refused(run("maps", "push", map_id, REPO, *ours), 1, "does not answer")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (HEAD_MAP, b"{}", "checksum:"),
        (f"{HEAD_MAP}.sha256", b"", "checksum:"),
        (f"{HEAD_MAP}.sha256", f"{hashlib.sha256(b'{}').hexdigest()}  {HEAD_MAP}\n".encode(), "checksum:"),
    ],
)
def test_a_map_that_was_changed_is_not_filed(
    hub: FakeHub, map_id: str, ours: tuple[str, Path], name: str, content: bytes, words: str
) -> None:
    told("maps", "push", map_id, REPO, *ours)
    hub.commit(REPO, {name: content})
    before = json.loads(run("maps", "list", "--json", *ours).stdout)
    refused(run("maps", "pull", REPO, *ours), 2, words)
    assert json.loads(run("maps", "list", "--json", *ours).stdout) == before


@pytest.mark.parametrize(("content", "words"), [(b"{}", "missing"), (b"[", "not JSON"), (b"\xff", "not JSON")])
def test_a_file_that_is_no_map_is_not_filed(hub: FakeHub, ours: tuple[str, Path], content: bytes, words: str) -> None:
    told_of = f"{hashlib.sha256(content).hexdigest()}  {HEAD_MAP}\n".encode()
    hub.commit(REPO, {HEAD_MAP: content, f"{HEAD_MAP}.sha256": told_of})
    refused(run("maps", "pull", REPO, *ours), 2, words)


def test_a_map_without_its_checksum_is_not_filed(hub: FakeHub, ours: tuple[str, Path]) -> None:
    hub.commit(REPO, {HEAD_MAP: b"{}"})
    refused(run("maps", "pull", REPO, *ours), 1, f"no {HEAD_MAP}.sha256")
