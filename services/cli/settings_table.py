"""The table of docs/settings.md, from the settings themselves: `python -m services.cli.settings_table` rewrites it."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from headmap.settings import Settings

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    """Variable, default and meaning of every setting, as Markdown."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, (), PydanticUndefined) else f"`{_plain(field.default)}`"
        lines.append(f"| `HEADMAP_{name.upper()}` | {default} | {field.description or ''} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """`text` with the table between its two marks."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def _plain(value: object) -> str:
    return str(list(value)).replace("'", '"') if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    readme = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/settings.md")
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
