"""What the README says is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from headmap.families.registry import FAMILIES
from headmap.kvcache.methods import METHODS
from services.cli.main import app
from services.cli.settings_table import with_table

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_up_to_date() -> None:
    assert with_table(README) == README


def test_every_method_and_family_is_there() -> None:
    table = README[README.index("| method |") :]
    assert all(f"| `{name}` |" in table for name in METHODS)
    docs = (ROOT / "docs" / "families.md").read_text()
    assert all(f"`{family.model_type}`" in docs for family in FAMILIES.values())
    plain = re.sub(r"[^a-z0-9]", "", README.split("Families: ")[1].split("A model is")[0].lower())
    names = {re.sub(r"[^a-z0-9]", "", name.lower()) for name in FAMILIES}
    assert [name for name in names if name not in plain] == []


def test_the_files_it_names_exist() -> None:
    named = set(re.findall(r"`((?:shared|services|migrations|tests|kvcache)/[\w/.]+)`", README))
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "shared" / "headmap" / name).exists())]
    assert not missing


def test_the_question_it_asks_is_answered_by_the_sample() -> None:
    asking = README.split("## Ask it something")[1].split("## Serve your own model")[0]
    (question,) = set(re.findall(r"What is the value of [A-Z]+\?", asking))
    samples = ROOT / "shared" / "headmap" / "demo" / "samples"
    first = json.loads((samples / "pages.jsonl").read_text().splitlines()[0])
    assert first["file"] == "0000.png"
    assert question in [entry["question"] for entry in first["questions"]]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_its_make_targets_and_commands_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (setup|demo|up|test|lint|format|bench)\b", text)) <= targets
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"headmap (up|score|generate|maps|pages|models|bench)\b", text)) <= commands
