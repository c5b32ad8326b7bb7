"""`headmap up`: the whole cluster on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

import headmap
from services.cli.common import DataDir, console, load_settings, one_line_errors


@one_line_errors
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The one port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    data_dir: DataDir = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A Hub id or a folder; may be repeated. [default: headmap/demo-ocr]"),
    ] = None,
) -> None:
    """Run scoring API, worker and inference on one port, with SQLite and an embedded broker, until Ctrl-C."""
    from headmap.http.plumbing import describe_access
    from headmap.models import find_model
    from services.embedded.supervisor import Notices, Supervisor, stop_signals

    settings = load_settings(data_dir, model)
    out = console()
    out.print(f"[bold]headmap {headmap.__version__}[/]")
    for name in settings.models:
        info = find_model(name, settings)
        shape = f"{info.num_layers} layers x {info.num_heads} heads ({info.num_kv_heads} KV heads)"
        out.print(f"  model    {info.name}  [dim]{info.family}, {shape}[/]")
    out.print(f"  data     {settings.data_dir}  [dim]logs in logs/[/]")
    out.print(f"  access   {describe_access(settings)}", markup=False)
    may_be_open = settings.access == "open" or (settings.access == "auto" and not settings.api_keys)
    if may_be_open and host not in ("127.0.0.1", "::1", "localhost"):
        out.print(f"  [yellow]warning  listening on {host}; HEADMAP_ACCESS=keys lets in nobody without a key[/]")

    def ready(url: str) -> None:
        out.print(f"  ready    [bold]{url}[/]  [dim]the dashboard; {url}/docs has every call; Ctrl-C ends it[/]")

    notices = Notices(ready=ready, trouble=lambda line: out.print(f"  [yellow]trouble  {line}[/]"))
    with (
        stop_signals() as came,
        Supervisor(settings, host=host, port=port, notices=notices, hurry=lambda: came() > 1) as cluster,
    ):
        out.print("  starting", style="dim")
        cluster.watch(lambda: came() > 0)
        out.print("  ending   running requests finish first; Ctrl-C again ends them", style="dim")
    out.print("  ended")
