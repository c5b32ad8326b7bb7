"""`headmap models`: the models on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from services.cli.common import DataDir, console, load_settings, one_line_errors


@one_line_errors
def models(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """List the models on this machine: name, family and folder.

    \b
    Example:
      headmap models --json
    """
    from headmap.models import list_models

    found = list_models(load_settings(data_dir))
    if as_json:
        fields = ("name", "family", "revision", "architecture", "num_layers", "num_heads", "num_kv_heads")
        rows = [{**{name: getattr(info, name) for name in fields}, "folder": str(info.folder)} for info in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table("name", "family", "layers x heads (KV)", "folder", box=None, pad_edge=False)
    for info in found:
        shape = f"{info.num_layers} x {info.num_heads} ({info.num_kv_heads})"
        table.add_row(info.name, info.family, shape, str(info.folder))
    console().print(table)
