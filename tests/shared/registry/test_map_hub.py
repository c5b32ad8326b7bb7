"""Maps on a Hub on disk, through the real huggingface_hub: what is pushed, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from headmap.errors import HeadmapError, HubRefused, HubUnavailable, InvalidParameter, RepoNotFound
from headmap.head_scores import HeadScores
from headmap.models import HEAD_MAP
from headmap.registry.map_file import MapFile
from headmap.registry.map_hub import CHECKSUM, pull_map, push_map
from headmap.registry.maps import Provenance
from tests.shared.registry.fake_hub import READER, WRITER, FakeHub, fake_hub

REPO = "me/reader-head-map"
MADE = Provenance(
    model="org/reader",
    revision="r1",
    architecture=None,
    dataset="synthetic",
    pages=3,
    origin_map_id="1" * 32,
    origin_version=2,
)
FILE = MapFile(MADE, HeadScores(np.arange(1.0, 9).reshape(2, 4), 2), np.ones((2, 4)), "0.1.0", ("a: b",), "n")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield served


def sums(content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {HEAD_MAP}\n".encode()


def push(repo: str = REPO, file: MapFile = FILE, *, private: bool = True) -> Any:
    return push_map(file, repo, private=private)


def test_what_is_pulled_is_what_was_pushed_and_knows_its_commit(hub: FakeHub) -> None:
    pushed = push()
    for name in (REPO, f"{REPO}@{pushed.commit}"):
        pulled = pull_map(name)
        assert pulled.provenance.origin_repo == f"{REPO}@{pushed.commit}"
        assert replace(pulled, provenance=MADE).text() == FILE.text()


def test_a_repository_has_the_file_its_checksum_and_a_card(hub: FakeHub) -> None:
    push()
    files = hub.files(REPO)
    assert set(files) == {".gitattributes", HEAD_MAP, CHECKSUM, "README.md"}
    assert files[HEAD_MAP].decode() == FILE.text()
    assert files[CHECKSUM] == sums(files[HEAD_MAP])
    _, metadata, text = files["README.md"].decode().split("---\n", 2)
    card = yaml.safe_load(metadata)
    assert (card["library_name"], card["base_model"], card["tags"][-1]) == ("headmap", "org/reader", "a: b")
    for told in ("| revision | `r1` |", "| pages | `3` |", "1" * 32, f"headmap maps pull {REPO}"):
        assert told in text


def test_a_repository_is_private_unless_it_shall_be_public(hub: FakeHub) -> None:
    push()
    push("me/open", private=False)
    assert hub.private == {REPO}


def test_a_revision_is_a_branch_which_is_made(hub: FakeHub) -> None:
    assert push(f"{REPO}@tried").revision == "tried"
    assert set(hub.files(REPO)) == {".gitattributes"}
    with pytest.raises(RepoNotFound, match="no map in it"):
        pull_map(REPO)
    assert pull_map(f"{REPO}@tried").provenance.pages == 3


def test_a_later_map_replaces_its_card_and_no_other_readme(hub: FakeHub) -> None:
    push()
    assert push(file=replace(FILE, tags=("later",))).card
    assert b"later" in hub.files(REPO)["README.md"]
    hub.commit("me/model", {"README.md": b"# My model\n"})
    assert not push("me/model").card
    assert hub.files("me/model")["README.md"] == b"# My model\n"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("me/none", RepoNotFound, "the Hub has no 'me/none'"),
        (f"{REPO}@none", RepoNotFound, "no such revision"),
        ("none", InvalidParameter, "must be OWNER/NAME"),
        (f"{REPO}@", InvalidParameter, "must be OWNER/NAME"),
        ("a--b/..", InvalidParameter, "a--b"),
    ],
)
def test_what_is_not_there_is_said(hub: FakeHub, name: str, error: type[HeadmapError], words: str) -> None:
    push()
    with pytest.raises(error, match=words):
        pull_map(name)


@pytest.mark.parametrize("repo", [REPO, "me/other"])
def test_who_may_not_write_is_told_so(hub: FakeHub, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    push()
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(HubRefused, match=r"status 403.*HF_TOKEN"):
        push(repo)
    assert set(hub.files("me/other")) == set()


def test_a_card_that_the_hub_does_not_take_is_told(hub: FakeHub) -> None:
    with pytest.raises(HubRefused, match="base_model"):
        push(file=replace(FILE, provenance=replace(MADE, model="no/model")))
    assert set(hub.files(REPO)) == {".gitattributes"}


def test_a_hub_that_fails_or_is_away_is_unavailable(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    push()
    hub.fault = 500
    with pytest.raises(HubUnavailable, match="status 500"):
        pull_map(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    for call in (push, lambda: pull_map(REPO)):
        with pytest.raises(HubUnavailable, match="does not answer"):
            call()


@pytest.mark.parametrize(
    "changed",
    [{HEAD_MAP: FILE.text().replace('"pages": 3', '"pages": 4').encode()}, {CHECKSUM: sums(b"")}, {CHECKSUM: b""}],
)
def test_a_map_that_was_changed_is_refused(hub: FakeHub, changed: dict[str, bytes]) -> None:
    push()
    hub.commit(REPO, changed)
    with pytest.raises(InvalidParameter, match=r"^checksum:"):
        pull_map(REPO)


@pytest.mark.parametrize(
    ("content", "words"), [(b"{}", "missing"), (b"[", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON")]
)
def test_a_file_that_is_no_map_is_refused(hub: FakeHub, content: bytes, words: str) -> None:
    hub.commit(REPO, {HEAD_MAP: content, CHECKSUM: sums(content)})
    with pytest.raises(InvalidParameter, match=words):
        pull_map(REPO)


def test_a_map_without_its_checksum_or_of_too_many_bytes_is_refused(hub: FakeHub) -> None:
    hub.commit(REPO, {HEAD_MAP: json.dumps({}).encode()})
    with pytest.raises(RepoNotFound, match=f"no {CHECKSUM}"):
        pull_map(REPO)
    hub.commit(REPO, {HEAD_MAP: bytes(33 * 2**20)})
    with pytest.raises(InvalidParameter, match="bytes"):
        pull_map(REPO)
