"""The tables of docs/settings.md, made from the settings: `python -m services.cli.settings_table` rewrites them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headmap.settings_groups import GROUPS
from services.cli.generated import rewrite, with_part


def tables() -> str:
    """A section for each group of settings, as Markdown."""
    return "\n\n".join(map(_section, GROUPS))


def with_tables(text: str) -> str:
    """The document with the sections in it."""
    return with_part(text, "settings", tables())


def _section(group: type[BaseModel]) -> str:
    title, _, about = inspect.getdoc(group).partition("\n")  # type: ignore[union-attr]
    lines = [f"## {title}", "", *([about.strip(), ""] if about else [])]
    lines += ["| variable | what it sets | default | unit | change it when |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(_row(name, field) for name, field in group.model_fields.items())])


def _row(name: str, field: FieldInfo) -> str:
    about: Mapping[str, str | None] = field.json_schema_extra  # type: ignore[assignment]
    default = "" if field.default in (None, (), PydanticUndefined) else f"`{_plain(field.default)}`"
    if default and about["unit"] == "bytes":
        default += f" ({field.default // 2**20:,} MiB)"
    return f"| `HEADMAP_{name.upper()}` | {field.description} | {default} | {about['unit'] or ''} | {about['change']} |"


def _plain(value: object) -> str:
    return str(list(value)).replace("'", '"') if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    rewrite("docs/settings.md", with_tables)
