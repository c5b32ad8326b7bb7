"""`headmap models`: the models on this machine."""

from __future__ import annotations

from typing import Annotated

from services.cli.common import DataDir, console, json_option, load_settings, one_line_errors, print_json

_FIELDS = ("name", "family", "revision", "architecture", "num_layers", "num_heads", "num_kv_heads", "folder")


@one_line_errors
def models(
    as_json: Annotated[bool, json_option(*_FIELDS, many=True)] = False,
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
        print_json([{name: getattr(info, name) for name in _FIELDS} for info in found])
        return
    from rich.table import Table

    table = Table("name", "family", "layers x heads (KV)", "folder", box=None, pad_edge=False)
    for info in found:
        shape = f"{info.num_layers} x {info.num_heads} ({info.num_kv_heads})"
        table.add_row(info.name, info.family, shape, str(info.folder))
    console().print(table)
