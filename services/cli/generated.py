"""The parts of documents that are made from the code: each stands between two marks, and is written again there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def with_part(text: str, mark: str, part: str) -> str:
    """`text` with `part` between `<!-- MARK: begin -->` and `<!-- MARK: end -->`."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{part}\n{end}{tail}"


def rewrite(document: str, change: Callable[[str], str]) -> None:
    """Change `document`, or the file that the command line names in its place."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else document)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
