"""`headmap models`: the models on this machine, or those that a cluster serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from services.cli.common import DataDir, cluster_url, console, json_option, load_settings, one_line_errors, print_json

_FIELDS = ("name", "family", "revision", "architecture", "num_layers", "num_heads", "num_kv_heads", "folder")


@one_line_errors
def models(
    as_json: Annotated[bool, json_option(*_FIELDS, many=True)] = False,
    data_dir: DataDir = None,
) -> None:
    """List the models that the settings name, then the other models in the Hub cache.

    With HEADMAP_URL, list those that the cluster serves.

    \b
    Example:
      headmap models --json
    """
    url = cluster_url(data_dir)
    found = _here(data_dir) if url is None else _there(url)
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table("name", "family", "layers x heads (KV)", "folder", box=None, pad_edge=False)
    for one in found:
        shape = f"{one['num_layers']} x {one['num_heads']} ({one['num_kv_heads']})"
        table.add_row(one["name"], one["family"] or "-", shape, str(one["folder"] or "-"))
    console().print(table)


def _here(data_dir: Path | None) -> list[dict[str, Any]]:
    from headmap.models import cached_models, list_models

    known = list_models(load_settings(data_dir))
    names = {info.name for info in known}
    known += [info for info in cached_models() if info.name not in names]
    return [{name: getattr(info, name) for name in _FIELDS} for info in known]


def _there(url: str) -> list[dict[str, Any]]:
    """Family and folder are null: a cluster does not tell them."""
    from services.cli.remote.calls import served_models
    from services.cli.remote.client import open_client

    with open_client(url) as client:
        served = served_models(client)
    return [{name: getattr(one, name, None) for name in _FIELDS} | {"name": one.id} for one in served]
