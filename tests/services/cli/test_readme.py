"""What README and docs say is so."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import headmap
from headmap.families.registry import FAMILIES
from headmap.kvcache.methods import METHODS
from services.cli.main import app
from services.cli.settings_table import with_tables as with_settings

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL = (*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")), *PAGES)


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_readme_is_one_short_read() -> None:
    assert len(README.split()) < 700


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == headmap.__version__ == cited["version"]
    assert f"## [{headmap.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "2506.05344" in cited["preferred-citation"]["url"]


def test_the_tables_of_settings_are_up_to_date() -> None:
    assert with_settings(read("settings.md")) == read("settings.md")


def test_every_method_and_family_is_there() -> None:
    assert all(f"| `{name}` |" in read("choosing-a-budget.md") for name in METHODS)
    assert all(f"`{family.model_type}`" in read("families.md") for family in FAMILIES.values())
    plain = re.sub(r"[^a-z0-9]", "", README.split("Families: ")[1].split("## ")[0].lower())
    names = {re.sub(r"[^a-z0-9]", "", name.lower()) for name in FAMILIES}
    assert [name for name in names if name not in plain] == []


def test_every_page_is_found_from_the_index() -> None:
    index = read("README.md")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_the_files_and_pages_it_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:shared|services|migrations|tests|kvcache)/[\w/.]+)`", text))
    places = (ROOT, ROOT / "shared" / "headmap", ROOT / "tests")
    named = {name for name in named if not re.search(r"[A-Z]{4}", name)}  # NAME stands for a name
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_the_question_it_asks_is_answered_by_the_sample() -> None:
    asking = read("getting-started.md").split("## Ask it something")[1].split("## Serve your own model")[0]
    (question,) = set(re.findall(r"What is the value of [A-Z]+\?", asking))
    assert question in README
    samples = ROOT / "shared" / "headmap" / "demo" / "samples"
    first = json.loads((samples / "pages.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["file"] == "0000.png"
    assert question in [entry["question"] for entry in first["questions"]]


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_its_make_targets_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?\bmake (setup|demo|up|test[\w-]*|lint|format|bench|chaos|clean|site)\b", text)) <= targets
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"`(?:\.venv/bin/)?headmap ([a-z][a-z-]*)", text)) <= commands
