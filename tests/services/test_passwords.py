"""The passwords of the compose stack: who gives them, who may read them, and what a second start keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import make_url

from services import passwords
from services.passwords import given, hand_out


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Who each file was given to, by inode; only root may do so."""
    found: dict[int, int] = {}

    def chown(file: int, user: int, group: int) -> None:
        found[os.fstat(file).st_ino] = user

    monkeypatch.setattr(passwords.os, "chown", chown)
    return found


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_are_their_readers_alone(tmp_path: Path, owners: dict[int, int]) -> None:
    hand_out(tmp_path, {})
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o400}
    found = {path.name: owners[path.stat().st_ino] for path in tmp_path.iterdir()}
    assert found == {
        "made.json": 0,
        "postgres-password": 0,
        "redis-password": 0,
        "redis.conf": 999,
        "database-url": 10001,
        "broker-url": 10001,
        "rate-limit-url": 10001,
    }


@pytest.mark.usefixtures("owners")
def test_a_second_start_keeps_what_the_first_made_and_each_stack_has_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        hand_out(folder, {})
    first, other = (texts(folder) for folder in folders)
    hand_out(folders[0], {})
    assert texts(folders[0]) == first
    for name in ("postgres-password", "redis-password"):
        assert len(first[name]) >= 32
        assert first[name] != other[name]
    assert first["postgres-password"] != first["redis-password"]


@pytest.mark.usefixtures("owners")
def test_chosen_passwords_reach_every_file_and_those_that_were_made_come_back_after_them(tmp_path: Path) -> None:
    hand_out(tmp_path, {})
    made = texts(tmp_path)
    hard = "@:/ %\"'$ü"
    hand_out(tmp_path, {"POSTGRES_PASSWORD": hard, "REDIS_PASSWORD": hard})
    now = texts(tmp_path)
    assert now["postgres-password"] == now["redis-password"] == hard
    for name in ("database-url", "broker-url", "rate-limit-url"):
        assert make_url(now[name]).password == hard
    assert now["redis.conf"].encode("latin-1").decode("unicode_escape").encode("latin-1").decode() == (
        f'requirepass "{hard}"\n'
    )
    hand_out(tmp_path, {})
    assert texts(tmp_path) == made


@pytest.mark.usefixtures("owners")
def test_a_start_that_was_cut_off_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".redis.conf").write_text("half of")
    hand_out(tmp_path, {})
    assert not (tmp_path / ".redis.conf").exists()


@pytest.mark.parametrize(
    ("secret", "line", "chosen"),
    [
        (None, None, {}),
        ("", "POSTGRES_PASSWORD=\n", {}),
        ("", "POSTGRES_PASSWORD='a$b #c'\n", {"POSTGRES_PASSWORD": "a$b #c"}),
        ("held\n", "POSTGRES_PASSWORD=beside\n", {"POSTGRES_PASSWORD": "held"}),
    ],
)
def test_a_docker_secret_comes_before_env(
    tmp_path: Path, secret: str | None, line: str | None, chosen: dict[str, str]
) -> None:
    if secret is not None:
        (tmp_path / "postgres-password").write_text(secret)
    if line is not None:
        (tmp_path / ".env").write_text(line)
    assert given(tmp_path, tmp_path / ".env") == chosen


def test_a_password_of_two_lines_is_refused_without_being_told(tmp_path: Path) -> None:
    (tmp_path / "redis-password").write_text("hush\nhush\n")
    with pytest.raises(ValueError, match=r"^REDIS_PASSWORD has more than one line$"):
        given(tmp_path, tmp_path / ".env")
