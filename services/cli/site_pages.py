"""A hook of MkDocs: makes the pages of the repository, as GitHub shows them, into pages of the site.

CONTRIBUTING, CHANGELOG and SECURITY are beside docs/ in the repository. On the site they are pages like the others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_REFERENCE = re.compile(r"^<!-- reference: ([\w.]+) -->$", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Adds what lies beside docs/: pages, and the dashboard's icon."""
    from mkdocs.structure.files import File

    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    icon = ROOT / "services" / "dashboard" / "static" / "icon.svg"
    files.append(File.generated(config, "theme/icon.svg", abs_src_path=str(icon)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return site_markdown(markdown, page.file.src_uri)


def site_markdown(text: str, name: str) -> str:
    """The Markdown of page `name` (its path on the site) in the form that the site's builder reads.

    Links to pages lead to the site, and show the page's title in place of its file's name. Links to other files of the
    repository become paths. Each mark `<!-- reference: headmap.NAME -->` becomes the docstrings of that name.
    """
    folder = ROOT if name in ROOT_PAGES else (ROOT / "docs" / name).parent

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match.groups()
        path = Path(os.path.normpath(folder / target))
        if not path.is_relative_to(ROOT) or not (path.exists() or target.startswith("../")):  # elsewhere, or no link
            return match[0]
        inside = path.relative_to(ROOT)
        if inside.parts[0] != "docs" and str(inside) not in ROOT_PAGES:
            return f"{label} (`{inside}`)" if label.strip("`") != str(inside) else f"`{inside}`"
        if label.strip("`").endswith(".md"):
            label = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        place = inside if inside.parts[0] != "docs" else inside.relative_to("docs")
        return f"[{label}]({os.path.relpath(place, Path(name).parent)}{anchor or ''})"

    return _REFERENCE.sub(r"::: \1", _LINK.sub(link, text))
