"""The checker of prose: each rule finds what it is for and nothing else, and our pages, settings and help pass."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import isclass
from pathlib import Path
from pkgutil import iter_modules

import click
import pytest
from pydantic import BaseModel
from typer.main import get_command

import services.inference.http.schemas
import services.scoring
from headmap.settings import Settings
from services.cli.main import app
from tools.prose import MOST_WORDS, ROOT, RULES, Fault, Rule, faults, main, pages, proselint_faults


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.bad)
def test_each_rule_finds_its_example_and_passes_the_other(rule: Rule) -> None:
    assert [message.startswith(rule.say) for _, message in faults(rule.bad)] == [True]
    assert faults(rule.good) == []


def test_long_sentences_are_found() -> None:
    most = "One " + " ".join("abcd"[number % 4] for number in range(1, MOST_WORDS)) + "."
    assert faults(f"{most} {most}") == []
    assert faults(f"Short.\n\nAlso short.\nThis {most}") == [
        Fault(4, f'{MOST_WORDS + 1} words in one sentence: "This One b c d a ..."')
    ]


@pytest.mark.parametrize(
    "text",
    [
        "    the kv-cache, of code\n",
        "Text:\n\n    the kv-cache\n\n    of more code\n\nText.\n",
        "```python\nkv-cache = 1\n```\n",
        "`the kv-cache` and ``the `kv-cache` `` are code.\n",
        "<!-- bench heads -->\nthe kv-cache\n<!-- /bench -->\n",
        "<!-- settings: begin -->\nthe kv-cache\n<!-- settings: end -->\n",
        "<!-- the kv-cache -->\n",
        "[A link](to/kv-cache.md) and ![a picture of the kv-cache](x.svg).\n",
    ],
)
def test_what_is_no_prose_is_skipped(text: str) -> None:
    assert faults(text) == []
    assert faults(f"{text}\nThe kv-cache.\n") != []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# Title\n\nThe\nkv-cache.\n", 4),
        ("```\n\n\n```\nThe kv-cache.\n", 5),
        ("- One.\n- Two, the\n  kv-cache.\n", 3),
        ("| a | b |\n|---|---|\n| c | of each key |\n", 3),
        ("## The kv-cache\n", 1),
        ("The digest is made of it. It is that\nof the pixels.\n", 1),
    ],
)
def test_faults_name_their_line(text: str, line: int) -> None:
    assert [fault.line for fault in faults(text)] == [line]


def test_a_heading_may_begin_as_no_sentence_does() -> None:
    assert faults("## What is tested\n") == []
    assert faults("What is tested is named.\n") != []


def test_the_command_prints_file_and_line_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("proselint")
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("The map is small.\n")
    bad.write_text("The map is small.\n\nThe map is kept for ever.\n")
    assert main([str(good)]) == 0
    assert main([str(good), str(bad)]) == 1
    assert all(line.startswith(f"{bad}:3: ") for line in capsys.readouterr().out.splitlines())
    assert [fault.line for fault in proselint_faults(bad.read_text())] == [3]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_our_pages_pass(page: Path) -> None:
    assert faults(page.read_text(encoding="utf-8")) == []


def test_settings_pass() -> None:
    for name, field in Settings.model_fields.items():
        about = field.json_schema_extra
        assert isinstance(about, dict)
        assert faults(f"{field.description}.\n\nChange it when {about['change']}.") == [], name


def helps(command: click.Command) -> Iterator[str]:
    yield (command.help or "").partition("\b")[0]  # after it stand lines that keep their form
    yield from (getattr(one, "help", None) or "" for one in command.params)
    for one in getattr(command, "commands", {}).values():
        yield from helps(one)


def test_the_help_of_the_command_line_passes() -> None:
    found = [(text, fault) for text in helps(get_command(app)) for fault in faults(text)]
    assert found == []


BODIES = (services.inference.http.schemas, services.scoring)


def test_the_fields_of_the_apis_pass() -> None:
    names = [f"{package.__name__}.{one.name}" for package in BODIES for one in iter_modules(package.__path__)]
    modules = [import_module(name) for name in names if "schemas" in name]
    bodies = [one for module in modules for one in vars(module).values() if isclass(one) and issubclass(one, BaseModel)]
    told = {field.description for body in bodies for field in body.model_fields.values() if field.description}
    assert len(told) > 50
    assert [(text, fault) for text in told for fault in faults(text)] == []
