"""`headmap doctor`: finds out by trials what this machine can do, or how a cluster is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.common import (
    DataDir,
    cluster_url,
    console,
    fail,
    find_named_model,
    json_option,
    one_line_errors,
    print_json,
    quiet_libraries,
)

if TYPE_CHECKING:
    from headmap.kvcache.shape import CacheShape
    from headmap.models import ModelInfo


@one_line_errors
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="Model whose shape the backends are tried on; its weights are not loaded.")
    ] = None,
    as_json: Annotated[bool, json_option("torch", "devices", "compilers", "openmp", "tries", "serves")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show devices, memory and compilers, and try each decode backend: is it right, and how fast is it?

    Exit code 1 if no backend can serve. With HEADMAP_URL, show health and version of the cluster's services instead;
    --json then has url, services and serves.

    \b
    Example:
      headmap doctor headmap/demo-ocr
    """
    if (url := cluster_url(data_dir)) is not None:
        if model is not None:
            fail(f"model: backends are tried only on this machine, got {model!r} for a cluster", code=2)
        _ask(url, as_json)
        return
    quiet_libraries()
    from headmap.doctor import examine

    if model is None:
        found = examine()
    else:
        info, _ = find_named_model(model, data_dir)
        found = examine(_shape(info), info.num_heads // info.num_kv_heads)
    if as_json:
        print_json(found)
    else:
        _say(found)
    if not found["serves"]:
        raise typer.Exit(1)


def _ask(url: str, as_json: bool) -> None:
    from services.cli.remote.calls import health
    from services.cli.remote.client import open_client

    with open_client(url) as client:
        services, url = health(client), client.url
    serves = services[0].status != "unavailable"
    if as_json:
        print_json({"url": url, "services": services, "serves": serves})
    else:
        from rich.table import Table

        table = Table("service", "version", "status", "what was checked", box=None, pad_edge=False)
        for one in services:
            checks = [f"{name}: {check.status} {check.detail}".rstrip() for name, check in one.checks.items()]
            table.add_row(one.service, one.version or "-", one.status, "\n".join(checks) or "-")
        console().print(table)
    if not serves:
        raise typer.Exit(1)


def _shape(info: ModelInfo) -> CacheShape:
    """Raises UnsupportedModel."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from headmap.errors import UnsupportedModel
    from headmap.kvcache.transformers.generate import cache_shape

    code = {"trust_remote_code": info.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(info.folder, local_files_only=True, **code)
        with torch.device("meta"):
            return cache_shape(AutoModelForImageTextToText.from_config(config, **code))
    except (OSError, ValueError, ImportError) as error:
        raise UnsupportedModel(f"model: {info.name!r} cannot be served: {error}", param="model") from error


def _say(found: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()
    out.print(f"torch {found['torch']}")
    for device in found["devices"]:
        out.print(
            f"{device['device']}: {device['name']}, {device['kv_memory_bytes'] / 2**30:.1f} GiB for keys and values"
        )
    for kind, path in found["compilers"].items():
        out.print(f"{kind}: {path or 'none'}")
    threads = found["openmp"]
    libraries = ", ".join(threads["libraries"]) or "none found"
    out.print(f"OpenMP: {threads['threads']} threads on cores {threads['cores']}, {libraries}")
    for name, value in threads["settings"].items():
        out.print(f"  {name}={value}")
    table = Table("device", "dtype", "tried", "", "error", "ms", "", box=None, pad_edge=False)
    for tries in found["tries"]:
        choice = tries["choice"]
        for tried in [*(choice["tried"] if choice else []), tries["graphs"]]:
            verdict = "left out" if tried["reason"] else "right"
            if choice and tried["name"] == choice["chosen"]:
                verdict = "chosen"
            error = "" if tried["error"] is None else f"{tried['error']:.1e}"
            time = "" if tried["milliseconds"] is None else f"{tried['milliseconds']:.2f}"
            table.add_row(tries["device"], tries["dtype"], tried["name"], verdict, error, time, tried["reason"] or "")
        if tries["problem"]:
            table.add_row(tries["device"], tries["dtype"], "all", "left out", "", "", tries["problem"])
    out.print(table)
    if not found["serves"]:
        out.print("nothing can serve here")
