"""`--json`: which commands have it, and that standard output then carries the documented keys and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from headmap.settings import DEMO_MODEL
from tests.services.cli.test_commands import run
from tests.services.cli.test_help import COMMANDS, ROOT_COMMAND
from tests.shared.datasets.archives import files, write_folder

WITHOUT = {
    ("up",): "runs until it is ended; /health and /info tell the same",
    ("maps", "export"): "prints JSON as it is",
    ("bench", "render"): "writes files of the repository",
}
MEASURING = [path for path, _ in COMMANDS if path[0] == "bench" and path not in WITHOUT]
"""Their --json names a file, which has each row as soon as it is measured."""


def options(path: tuple[str, ...]) -> dict[str, Any]:
    command = ROOT_COMMAND
    for word in path:
        command = command.commands[word]
    return {option: one for one in command.params for option in one.opts}


def documented(path: tuple[str, ...]) -> set[str]:
    """The keys that the help of --json names."""
    found = re.fullmatch(r"Print JSON alone: .* with (.*)\.", options(path)["--json"].help)
    assert found is not None
    return set(re.split(r", |\. Also: ", found[1]))


def told(*arguments: object) -> Any:
    """What a command prints with --json; its keys are the documented ones."""
    path = tuple(
        str(word) for word in arguments[: 2 if arguments[0] in ("maps", "policies", "keys", "datasets") else 1]
    )
    done = run(*arguments, "--json")
    assert done.exit_code in (0, 3), done.output
    value = json.loads(done.stdout)
    for item in value if isinstance(value, list) else [value]:
        assert set(item) == documented(path)
    return value


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_a_command_has_json_or_a_reason(path: tuple[str, ...]) -> None:
    assert ("--json" in options(path)) == (path not in WITHOUT)
    if path not in WITHOUT and path not in MEASURING:
        assert options(path)["--json"].is_flag
        assert documented(path)


def test_models_pages_and_sizes(tmp_path: Path) -> None:
    assert DEMO_MODEL in [model["name"] for model in told("models")]
    assert told("pages", "--count", 1, "--out", tmp_path / "out")["pages"] == 1
    shape = ["--layers=3", "--kv-heads=2", "--head-dim=16", "--prompt-tokens=90", "--new-tokens=9", "--budget=20"]
    sizes = told("sizing", *shape, "--memory=1000000")
    assert sizes["full"]["bytes"] == 99 * sizes["bytes_per_token"]
    assert sizes["budget"]["fit"] > sizes["full"]["fit"]


def test_keys_and_datasets(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path / "data")
    made = told("keys", "create", "ci", *data_dir)
    (listed,) = told("keys", "list", *data_dir)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert told("keys", "revoke", "ci", *data_dir)["revoked_at"] is not None

    folder = write_folder(tmp_path / "pages", files())
    added = told("datasets", "add", "mine", folder, *data_dir)
    assert (added["created"], told("datasets", "add", "mine", folder, *data_dir)["created"]) == (True, False)
    (kept,) = told("datasets", "list", *data_dir)["items"]
    assert kept == {name: value for name, value in added.items() if name != "created"}
    assert told("datasets", "rm", "mine", *data_dir) == {"removed": "mine"}


def test_maps(tmp_path: Path, map_id: str) -> None:
    data_dir = ("--data-dir", tmp_path)
    (listed,) = told("maps", "list", *data_dir)
    assert listed["id"] == map_id
    assert told("maps", "show", map_id, *data_dir)["top_heads"]
    file, drawn = tmp_path / "map.json", tmp_path / "map.svg"
    assert told("maps", "draw", map_id, "--out", drawn, *data_dir) == {"map_id": map_id, "file": str(drawn)}
    assert run("maps", "export", map_id, "--out", file, *data_dir).exit_code == 0
    second = told("maps", "import", file, *data_dir)
    assert second["version"] == listed["version"] + 1
    assert told("maps", "alias", second["id"], "stable", *data_dir)["aliases"] == ["stable"]
    assert told("maps", "diff", map_id, "stable", *data_dir)["changes"] == []
    assert told("maps", "check", map_id, *data_dir)["passed"]
    refused = run("maps", "check", "nope", "--json", *data_dir)
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_policies(tmp_path: Path, map_id: str) -> None:
    named = (DEMO_MODEL, "documents", "--data-dir", tmp_path)
    made = told("policies", "set", *named, "--ratio", 0.2, "--map", map_id[:6])
    assert made["kv"]["map"] == map_id
    assert told("policies", "show", *named) == made
    assert told("policies", "list", "--data-dir", tmp_path) == told("policies", "history", *named) == [made]
    assert told("policies", "delete", *named, "--instead-of", 1) == {"deleted": "documents"}


@pytest.mark.slow
def test_score_and_generate(tmp_path: Path) -> None:
    data_dir = ("--data-dir", tmp_path)
    made = told("score", DEMO_MODEL, "--pages", 1, "--max-new-tokens", 60, *data_dir)
    assert Path(made["heatmap"]).is_file()
    assert run("pages", "--count", 1, "--out", tmp_path / "pages").exit_code == 0
    ask = (DEMO_MODEL, "--image", tmp_path / "pages" / "0000.png", "What?", "--max-new-tokens", 3)
    answer = told("generate", *ask, "--ratio", 0.5, *data_dir)
    assert answer["generated_tokens"] == 3
    assert (answer["kv"]["method"], answer["kv"]["map_id"]) == ("sparsemm", made["id"])
    assert answer["kv"]["kept_tokens"] <= answer["kv"]["full_tokens"] / 2
