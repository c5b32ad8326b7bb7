"""What the command line says of itself, and to those who mistype."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from headmap.settings import DEMO_MODEL, Settings
from services.cli.commands_reference import commands, example, with_reference
from services.cli.demo import OUT, next_command
from services.cli.main import app

ROOT = Path(__file__).parents[3]
runner = CliRunner()
ROOT_COMMAND: Any = get_command(app)
COMMANDS = list(commands())


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what is left for it."""
    assert words.pop(0) == "headmap"
    command = ROOT_COMMAND
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command, words


def parses(line: str) -> None:
    """Whether the command takes each option, and all arguments it needs are there."""
    command, words = find(shlex.split(line))
    context = command.context_class(command, info_name=command.name)
    given, left, _ = command.make_parser(context).parse_args(words)
    assert left == []
    assert [one.name for one in command.params if one.required and given.get(one.name) is None] == []


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_every_command_has_an_example_that_it_takes(path: tuple[str, ...], command: Any) -> None:
    line = " ".join(example(command).replace("\\\n", " ").split())
    assert line.startswith(f"headmap {' '.join(path)}")
    parses(line)


def test_the_reference_of_commands_is_up_to_date() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert with_reference(page) == page


def test_completion_knows_commands_and_options() -> None:
    def completed(line: str) -> str:
        environment = {"_HEADMAP_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        return runner.invoke(app, [], prog_name="headmap", env=environment).output

    assert "generate" in completed("headmap gen")
    assert "--max-new-tokens" in completed("headmap generate --max-n")


def test_headmap_alone_shows_five_first_things_that_work() -> None:
    alone, helped = runner.invoke(app, []).output, runner.invoke(app, ["--help"]).output
    assert alone == helped
    steps = ROOT_COMMAND.help.split("first:\n")[1].split("\n\n")[0].splitlines()
    lines = " ".join(line[line.index("headmap") :] if "headmap" in line else line for line in steps)
    assert [f"{number}." for number in range(1, 6) if f" {number}. " in alone] == ["1.", "2.", "3.", "4.", "5."]
    assert lines.count("headmap ") == 5


def test_brackets_stay_in_help() -> None:
    assert "[default: sparsemm with --budget or --ratio, else full]" in " ".join(
        runner.invoke(app, ["generate", "-h"]).output.split()
    )


def test_a_misspelt_command_option_or_model_is_answered_with_the_near_one(tmp_path: Path) -> None:
    assert "Did you mean 'generate'" in runner.invoke(app, ["generte"]).output
    assert "--model" in runner.invoke(app, ["up", "--modle", "x"]).output
    result = runner.invoke(app, ["score", "headmap/demo-orc", "--data-dir", str(tmp_path)])
    assert f"did you mean '{DEMO_MODEL}'?" in result.stderr


def test_a_model_that_is_not_here_is_not_named_among_those_that_are(tmp_path: Path) -> None:
    for command in ("up", "score"):
        named = ["--model", "nobody/none"] if command == "up" else ["nobody/none"]
        result = runner.invoke(app, [command, *named, "--data-dir", str(tmp_path)])
        assert result.exit_code == 1
        assert result.stderr == f"headmap: model: 'nobody/none' is not here; here are {DEMO_MODEL}\n"


@pytest.mark.parametrize(("ratio", "told"), [("20", "0.2 for 20 %"), ("0", "0.2 for 20 %"), ("150", "0.2 for 20 %")])
def test_a_ratio_that_is_no_share_is_answered_with_one_that_is(tmp_path: Path, ratio: str, told: str) -> None:
    (tmp_path / "a.png").touch()
    result = runner.invoke(app, ["generate", "m", "What?", "--image", str(tmp_path / "a.png"), "--ratio", ratio])
    assert result.exit_code == 2
    assert "'--ratio'" in result.output
    assert told in result.output


def test_the_demo_ends_with_a_command_on_its_own_data() -> None:
    program, *words = next_command(Settings(data_dir=OUT / "data"))
    assert Path(program).name == "headmap"
    parses(shlex.join(["headmap", *words]))
    assert words[words.index("--data-dir") + 1] == str(OUT / "data")


@pytest.mark.parametrize(("has_gpu", "index"), [(False, ""), (True, ""), (False, "somewhere")])
def test_setup_says_how_large_torch_is_before_it_is_fetched(tmp_path: Path, has_gpu: bool, index: str) -> None:
    tools, venv = tmp_path / "tools", tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    tools.mkdir()
    for path, body in (
        (tools / "python3", "exit 0"),
        (tools / "uname", "echo Linux"),
        (venv / "bin" / "python", 'case "$*" in *"import torch"*) exit 1;; *) echo "RUN $*";; esac'),
        *([(tools / "nvidia-smi", "exit 0")] if has_gpu else []),
    ):
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    for name in ("make", "bash", "sh", "touch", "test"):
        found = next(Path(folder) / name for folder in os.get_exec_path() if (Path(folder) / name).exists())
        (tools / name).symlink_to(found)
    result = subprocess.run(
        ["make", "-C", str(ROOT), "setup", f"VENV={venv}", f"TORCH_INDEX={index}", "PYTHON=python3"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=True,
    )
    said, _, rest = result.stdout.partition("RUN -m pip install")
    assert "torch==" in rest
    assert "MB" in said or "3 GB" in said
    assert ("TORCH_INDEX=URL" in said) == (not has_gpu and not index)
