"""`headmap bench`: the benchmarks of the README, each with its result as JSON."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.common import console, fail, one_line_errors, quiet_libraries

app = typer.Typer(
    help="Measure accuracy, efficiency, scoring, serving, endurance and the paper's findings.", no_args_is_help=True
)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result here.")]
Short = Annotated[bool, typer.Option("--short", help="Fewer pages and repeats: minutes instead of an hour.")]


@app.callback()
def bench() -> None:
    """Measure accuracy, efficiency, scoring, serving, endurance and the paper's findings."""
    quiet_libraries()


@app.command("accuracy")
@one_line_errors
def accuracy(json: JsonFile = None, short: Short = False) -> None:
    """All methods at equal bytes on held-out pages: lookups and transcription."""
    from benchmarks.accuracy import run

    fewer: dict[str, Any] = {"pages": 10, "map_pages": 16, "ratios": (0.1, 0.2, 0.4, 1.0)} if short else {}
    _finish(run(progress=_say, **fewer), json)


@app.command("efficiency")
@one_line_errors
def efficiency(json: JsonFile = None, short: Short = False) -> None:
    """Decode and prefill against transformers' DynamicCache at equal bytes, 0.5 B shapes."""
    from benchmarks.efficiency import run

    fewer: dict[str, Any] = {"budgets": (256,), "repeats": 7} if short else {}
    _finish(run(progress=_say, **fewer), json)


@app.command("scoring")
@one_line_errors
def scoring(json: JsonFile = None, short: Short = False) -> None:
    """Pages per minute against the plain loop, with the same scores; two workers against one."""
    from benchmarks.scoring import run

    fewer: dict[str, Any] = {"pages": 8, "wide_pages": 1, "endless_tokens": 0, "job_pages": 48} if short else {}
    _finish(run(progress=_say, **fewer), json)


@app.command("heads")
@one_line_errors
def heads(json: JsonFile = None, short: Short = False) -> None:
    """Sparsity and stability of the map, and what masking heads does."""
    from benchmarks.heads import run

    fewer: dict[str, Any] = {"pages": 8, "map_pages": 16, "draws": 2} if short else {}
    _finish(run(progress=_say, **fewer), json)


@app.command("serving")
@one_line_errors
def serving(json: JsonFile = None, short: Short = False) -> None:
    """Throughput and latency over HTTP with 1 to 32 clients, against the same server with full caches."""
    from benchmarks.serving import file_map, live_server, run
    from headmap.settings import Settings

    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = Settings(data_dir=Path(folder))
        file_map(settings)
        with live_server(settings, port) as url:
            fewer: dict[str, Any] = {"clients": (1, 8), "requests": 16} if short else {}
            _finish(run(url=url, progress=_say, **fewer), json)


@app.command("soak")
@one_line_errors
def soak(json: JsonFile = None, short: Short = False) -> None:
    """Memory of the server over 2,000 requests of all methods and page sizes."""
    from benchmarks.soak import run

    fewer: dict[str, Any] = {"requests": 200, "step": 20} if short else {}
    _finish(run(progress=_say, **fewer), json)


@app.command("health")
@one_line_errors
def health(json: JsonFile = None, short: Short = False) -> None:
    """How soon the health answers while 32 large pictures are decoded."""
    from benchmarks.health import run

    fewer: dict[str, Any] = {"pictures": 8} if short else {}
    _finish(run(progress=_say, **fewer), json)


def _say(line: str) -> None:
    console().print(line, highlight=False)


def _finish(result: dict[str, Any], path: Path | None) -> None:
    from benchmarks.report import save

    if path is not None:
        if path.suffix != ".json":
            fail(f"--json: must end in .json, got {path}", code=2)
        save(result, path)
        console().print(f"written to {path}")
