"""The site of docs/: its pages say what the repository's say, and need no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from services.cli.architecture_figure import figure
from services.cli.site_pages import ROOT_PAGES, site_markdown

ROOT = Path(__file__).parents[3]
PAGES = (*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ROOT_PAGES))
BLOCKS = re.compile(r"<(h[1-6]|li|ol|ul|pre|table|td|blockquote|a|img|em|strong|code)[ >]")


@pytest.mark.parametrize(
    ("page", "text", "shown"),
    [
        ("design.md", "[a page](findings.md#speed)", "[a page](findings.md#speed)"),
        ("design.md", "[to change it](../CONTRIBUTING.md#set-up)", "[to change it](CONTRIBUTING.md#set-up)"),
        ("CONTRIBUTING.md", "[the rooms](docs/design.md)", "[the rooms](design.md)"),
        ("README.md", "[glossary.md](glossary.md)", "[Glossary](glossary.md)"),
        ("design.md", "![a plot](figures/heads.svg)", "![a plot](figures/heads.svg)"),
        ("design.md", "[the settings](../shared/headmap/settings.py)", "the settings (`shared/headmap/settings.py`)"),
        ("CONTRIBUTING.md", "[LICENSE](LICENSE)", "`LICENSE`"),
        ("design.md", "[the paper](https://arxiv.org/abs/2506.05344)", "[the paper](https://arxiv.org/abs/2506.05344)"),
        ("design.md", "`METHODS[name](shape)`", "`METHODS[name](shape)`"),
        ("library.md", "<!-- reference: headmap.HeadScores -->", "::: headmap.HeadScores"),
        ("CONTRIBUTING.md", "`<!-- reference: headmap.NAME -->`", "`<!-- reference: headmap.NAME -->`"),
    ],
)
def test_links_and_marks_become_those_of_the_site(page: str, text: str, shown: str) -> None:
    assert site_markdown(text, page) == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_read_as_on_github(page: Path) -> None:
    """Lists, code and tables: Python's Markdown asks for four spaces and blank lines where CommonMark does not."""
    markdown = pytest.importorskip("markdown")
    from markdown_it import MarkdownIt

    text = page.read_text(encoding="utf-8")
    ours = markdown.markdown(text, extensions=["tables", "attr_list", "pymdownx.superfences"])
    theirs = MarkdownIt().enable("table").render(text)
    assert Counter(BLOCKS.findall(ours)) == Counter(BLOCKS.findall(theirs))


def test_the_picture_of_the_processes_is_current() -> None:
    shown = (ROOT / "docs" / "figures" / "architecture.svg").read_text(encoding="utf-8")
    assert shown == figure(), "python -m services.cli.architecture_figure draws it"
    ElementTree.fromstring(shown)


@pytest.mark.slow
def test_the_site_is_built_whole_and_needs_no_network(tmp_path: Path) -> None:
    """Strict: a link that leads nowhere, or a page that no list names, fails the build."""
    pytest.importorskip("mkdocs", reason="make site installs it")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    names = {"index" if page.name == "README.md" else page.stem for page in PAGES}
    assert names <= {page.stem for page in tmp_path.glob("*.html")}
    loaded = r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
    for page in tmp_path.glob("*.html"):
        assert re.findall(loaded, page.read_text(encoding="utf-8")) == [], page.name
    for style in tmp_path.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == [], style
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        marks = re.findall(r"^<!-- reference: ([\w.]+) -->$", text, re.MULTILINE)
        shown = (tmp_path / f"{page.stem}.html").read_text(encoding="utf-8") if marks else ""
        assert [mark for mark in marks if f'id="{mark}"' not in shown] == []
