"""`headmap up`: the whole cluster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import headmap
from services.cli.common import DataDir, console, load_settings, one_line_errors, waiting

if TYPE_CHECKING:
    from headmap.models import ModelInfo
    from headmap.settings import Settings


@one_line_errors
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for everything; 0 takes a free port.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    data_dir: DataDir = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Model to serve: a Hub id or a folder; may be repeated. [default: headmap/demo-ocr]"
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the dashboard in the browser once it is up.")] = False,
) -> None:
    """Run scoring API, worker and inference on one port, with SQLite and an embedded broker, until Ctrl-C.

    \b
    Example:
      headmap up --model Qwen/Qwen2-VL-2B-Instruct --open
    """
    import webbrowser

    from headmap.http.plumbing import describe_access
    from headmap.models import find_model
    from services.embedded.supervisor import Notices, Supervisor, stop_signals

    settings = load_settings(data_dir, model)
    out = console()
    out.print(f"[bold]headmap {headmap.__version__}[/]")
    models = [find_model(name, settings) for name in settings.models]
    for info in models:
        shape = f"{info.num_layers} layers x {info.num_heads} heads ({info.num_kv_heads} KV heads)"
        out.print(f"  model    {info.name}  [dim]{info.family}, {shape}[/]")
    out.print(f"  data     {settings.data_dir}  [dim]logs in logs/[/]")
    out.print(f"  access   {describe_access(settings)}", markup=False)
    may_be_open = settings.access == "open" or (settings.access == "auto" and not settings.api_keys)
    if may_be_open and host not in ("127.0.0.1", "::1", "localhost"):
        out.print(f"  [yellow]warning  listening on {host}; HEADMAP_ACCESS=keys lets in nobody without a key[/]")

    first = True
    starting = waiting("starting", out)

    def ready(url: str) -> None:
        nonlocal first
        starting.stop()
        if first:
            for info in models:
                out.print(f"  map      {_map(info, settings)}", markup=False)
            out.print(f"  device   {_device(url, settings)}")
        out.print(f"  ready    [bold]{url}[/]  [dim]dashboard; calls in /docs; Ctrl-C ends it[/]")
        if first and open_page:
            webbrowser.open(url)
        first = False

    notices = Notices(ready=ready, trouble=lambda line: out.print(f"  [yellow]trouble  {line}[/]"))
    with (
        stop_signals() as came,
        starting,
        Supervisor(settings, host=host, port=port, notices=notices, hurry=lambda: came() > 1) as cluster,
    ):
        if not out.is_terminal:
            out.print("  starting")
        cluster.watch(lambda: came() > 0)
        starting.stop()
        out.print("  ending   running requests finish first; Ctrl-C again ends them", style="dim")
    out.print("  ended")


def _map(info: ModelInfo, settings: Settings) -> str:
    """The map that serves `info`, or how to make one."""
    from headmap.errors import MapNotFound, RegistryUnavailable
    from headmap.registry.maps import resolve_map
    from headmap.registry.session import open_database

    database = open_database(settings)
    try:
        with database.read() as session:
            record, match = resolve_map(session, info.name, info.revision)
    except MapNotFound:
        return f"none of {info.name} yet; `headmap score {info.name}` makes one"
    except RegistryUnavailable as error:
        return f"unknown: {error.detail}"
    finally:
        database.close()
    revision = "" if match == "exact" else ", of another revision of the model"
    return f"{record.id[:12]}, version {record.version} of {info.name}{revision}"


def _device(url: str, settings: Settings) -> str:
    """The device that inference names. Where inference asks for a key, the device of the settings."""
    import httpx

    keys = settings.api_keys
    headers = {"Authorization": f"Bearer {keys[0].get_secret_value()}"} if keys else {}
    try:
        told = httpx.get(f"{url}/info", headers=headers, timeout=5, trust_env=False).raise_for_status().json()
        return f"{told['model_device_type']}, {told['model_dtype']}"
    except (httpx.HTTPError, ValueError, KeyError):
        return f"HEADMAP_DEVICE={settings.device}"
