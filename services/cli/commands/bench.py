"""`headmap bench`: the benchmarks of the README, each with its result as JSON."""

from __future__ import annotations

import json as json_files
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headmap.models import DEMO_MODEL
from services.cli.common import console, fail, one_line_errors, quiet_libraries
from services.cli.selectors import SelectorsOfMethods, parse_selector

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.report import Recorder

app = typer.Typer(
    help="Measure accuracy, efficiency, scoring, serving, endurance and the paper's findings.", no_args_is_help=True
)

JsonFile = Annotated[Path | None, typer.Option("--json", help="File for the result, written row by row.")]
Model = Annotated[str, typer.Option(help="Model to measure: a Hub id or a folder.")]
Short = Annotated[bool, typer.Option("--short", help="Use fewer pages and repeats: minutes instead of an hour.")]
Part = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        help="decode, prefill, selection, ways or requests; all by default. Rows of other parts stay in the file.",
    ),
]


@app.callback()
def bench() -> None:
    """Measure accuracy, efficiency, scoring, serving, endurance and the paper's findings."""
    quiet_libraries()


@app.command("accuracy")
@one_line_errors
def accuracy(
    json: JsonFile = None,
    short: Short = False,
    select: SelectorsOfMethods = None,
    model: Model = DEMO_MODEL,
    dataset: Annotated[str, typer.Option(help="Kind of made-up pages that the questions are about.")] = "synthetic",
    pages: Annotated[int | None, typer.Option(min=1, help="Pages of questions.")] = None,
    read_pages: Annotated[int | None, typer.Option(min=0, help="Pages to transcribe; all by default.")] = None,
    map_pages: Annotated[int | None, typer.Option(min=1, help="Pages that the map is made of.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Cache method; all by default. May be repeated.")] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Share of the prompt kept. May be repeated.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of question: lookup, suffix, text-first or counting. May be repeated. [default: lookup]"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the pages of questions.")] = None,
) -> None:
    """Compare methods at equal bytes on held-out pages: questions and transcription.

    \b
    Example:
      headmap bench accuracy --short --json bench-out/accuracy.json
    """
    from benchmarks.accuracy import KINDS, run

    if kind and (unknown := set(kind) - set(KINDS)):
        fail(f"--kind: {', '.join(sorted(unknown))} is none of {', '.join(KINDS)}", code=2)
    chosen: dict[str, Any] = {"pages": 10, "map_pages": 16, "ratios": (0.1, 0.2, 0.4, 1.0)} if short else {}
    told = {"pages": pages, "read_pages": read_pages, "map_pages": map_pages, "methods": method, "ratios": ratio}
    told |= {"kinds": kind, "seed": seed}
    chosen |= {name: value for name, value in told.items() if value not in (None, [])}
    if select:
        chosen["selectors"] = [parse_selector(text) for text in select]
    _finish(run(record=_recorder(json), model=model, dataset=dataset, **chosen), json)


@app.command("efficiency")
@one_line_errors
def efficiency(
    json: JsonFile = None,
    short: Short = False,
    part: Part = None,
    device: Annotated[str, typer.Option(help="Device for `requests`: cpu, cuda or cuda:N.")] = "cpu",
    model: Annotated[
        str | None,
        typer.Option(help="Real model for `--part requests`, prompted with pages; random weights without it."),
    ] = None,
    isa: Annotated[
        str, typer.Option(help="native, or avx2 for a machine without AVX-512 and AMX. Other rows stay in the file.")
    ] = "native",
) -> None:
    """Time decode steps at equal bytes, the choice of tokens, ways to attend, and whole requests, beside other caches.

    \b
    Example:
      headmap bench efficiency --short --json bench-out/efficiency.json
    """
    _computes_with(isa)
    from benchmarks.efficiency import PARTS, Grid, PageGrid, run

    if part and (unknown := set(part) - set(PARTS)):
        fail(f"--part: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}", code=2)
    if model and part != ["requests"]:
        fail("--model: only --part requests measures a real model", code=2)
    _needs(device)
    requests = PageGrid.of(model, device, short) if model else Grid.of(device, short)
    chosen = tuple(name for name in PARTS if not part or name in part)
    fewer: dict[str, Any] = {"budgets": (256,), "repeats": 7} if short else {}
    _finish(run(record=_recorder(json), parts=chosen, requests=requests, earlier=_rows(json), **fewer), json)


@app.command("books")
@one_line_errors
def books(
    json: JsonFile = None,
    short: Short = False,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="steps, memory, graphs, admission, sampling or prefill; all by default."),
    ] = None,
) -> None:
    """Time the engine's bookkeeping, sampler and packed prefill. Exit code 1 if one misses its bar.

    \b
    Example:
      headmap bench books --short --json bench-out/books.json
    """
    from benchmarks.books import PARTS, missed, run

    if part and (unknown := set(part) - set(PARTS)):
        fail(f"--part: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}", code=2)
    chosen = tuple(name for name in PARTS if not part or name in part)
    result = run(record=_recorder(json, quiet=True), parts=chosen, short=short)
    console().print(_bars(result["rows"]))
    _finish(result, json)
    if rows := missed(result):
        fail(f"{len(rows)} of {sum(row['bar'] is not None for row in result['rows'])} bars are missed")


@app.command("gpu")
@one_line_errors
def gpu(json: JsonFile = None) -> None:
    """Time decode steps of a 7 B shape on one GPU of 80 GB, beside full caches and the memory's floor; ten minutes.

    \b
    Example:
      headmap bench gpu --json bench-out/gpu.json
    """
    from benchmarks.gpu import run

    _needs("cuda")
    _finish(run(record=_recorder(json)), json)


@app.command("scoring")
@one_line_errors
def scoring(json: JsonFile = None, short: Short = False) -> None:
    """Compare pages per minute with a plain loop of the same scores, and two workers with one.

    \b
    Example:
      headmap bench scoring --short --json bench-out/scoring.json
    """
    from benchmarks.scoring import run

    fewer: dict[str, Any] = {"pages": 8, "wide_pages": 1, "endless_tokens": 0, "job_pages": 48} if short else {}
    _finish(run(record=_recorder(json), **fewer), json)


@app.command("heads")
@one_line_errors
def heads(
    json: JsonFile = None,
    short: Short = False,
    model: Model = DEMO_MODEL,
    pages: Annotated[int | None, typer.Option(min=1, help="Pages of lookups.")] = None,
    map_pages: Annotated[int | None, typer.Option(min=1, help="Pages of each of two maps.")] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Draws of random heads.")] = None,
    share: Annotated[
        list[float] | None, typer.Option(min=0.001, max=0.9, help="Share of the heads that is masked; give it again.")
    ] = None,
) -> None:
    """Measure the map's sparsity and stability, and the effect of masking heads.

    \b
    Example:
      headmap bench heads --short --json bench-out/heads.json
    """
    from benchmarks.heads import run

    fewer: dict[str, Any] = {"pages": 8, "map_pages": 16, "draws": 2} if short else {}
    told = {"pages": pages, "map_pages": map_pages, "draws": draws, "masked_shares": share}
    fewer |= {name: value for name, value in told.items() if value is not None}
    _finish(run(record=_recorder(json), model=model, **fewer), json)


@app.command("serving")
@one_line_errors
def serving(json: JsonFile = None, short: Short = False) -> None:
    """Measure throughput and latency over HTTP with 1 to 32 clients, beside full caches and one request at a time.

    \b
    Example:
      headmap bench serving --short --json bench-out/serving.json
    """
    from benchmarks.serving import run

    fewer: dict[str, Any] = {"clients": (1, 4, 16), "requests": 16, "rounds": 1} if short else {}
    _finish(run(record=_recorder(json), **fewer), json)


@app.command("gaps")
@one_line_errors
def gaps(json: JsonFile = None, short: Short = False) -> None:
    """Measure how long a running answer waits for its next token while long prompts are prefilled.

    \b
    Example:
      headmap bench gaps --short --json bench-out/gaps.json
    """
    from benchmarks.gaps import run

    fewer: dict[str, Any] = {"prompts": 2, "rounds": 1} if short else {}
    _finish(run(record=_recorder(json), **fewer), json)


@app.command("soak")
@one_line_errors
def soak(
    json: JsonFile = None,
    short: Short = False,
    requests: Annotated[
        int | None, typer.Option(min=10, help="Number of requests. [default: 3,000; 200 with --short]")
    ] = None,
) -> None:
    """Watch the server's memory over thousands of requests of all methods and page sizes, with preemptions.

    \b
    Example:
      headmap bench soak --short --json bench-out/soak.json
    """
    from benchmarks.soak import run

    number = requests or (200 if short else 3000)
    _finish(run(record=_recorder(json), requests=number, step=max(1, number // 60)), json)


@app.command("health")
@one_line_errors
def health(json: JsonFile = None, short: Short = False) -> None:
    """Measure how soon health checks answer while 32 large pictures are decoded.

    \b
    Example:
      headmap bench health --short --json bench-out/health.json
    """
    from benchmarks.health import run

    fewer: dict[str, Any] = {"pictures": 8} if short else {}
    _finish(run(record=_recorder(json), **fewer), json)


@app.command("render")
@one_line_errors
def render() -> None:
    """Write the tables and plots of README and docs from benchmarks/results. Needs the repository.

    \b
    Example:
      headmap bench render
    """
    from benchmarks.render import main

    main()


def _bars(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("figure", "shape", "value", "unit", "bar", "holds"):
        table.add_column(name, justify="right" if name in ("value", "bar") else "left")
    for row in rows:
        bar = ("-", "") if row["bar"] is None else (f"{row['bar']:g}", "yes" if row["holds"] else "MISSED")
        table.add_row(row["figure"], row["shape"], f"{row['value']:,.3f}", row["unit"], *bar)
    return table


def _recorder(path: Path | None, *, quiet: bool = False) -> Recorder:
    from benchmarks.report import Recorder

    if path is not None and path.suffix != ".json":
        fail(f"--json: must end in .json, got {path}", code=2)
    return Recorder(path, lambda line: None if quiet else console().print(line, highlight=False))


def _needs(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        fail(f"device {device}: torch finds no GPU here")


def _computes_with(chosen: str) -> None:
    """Start this command again where torch has to be loaded in another environment, and end as that ends."""
    from benchmarks.report import ISAS, avx2_environment, isa

    if chosen not in ISAS:
        fail(f"--isa: {chosen!r} is none of {', '.join(ISAS)}", code=2)
    if chosen in ("native", isa()):
        return
    if platform.machine() not in ("x86_64", "AMD64"):
        fail(f"--isa {chosen}: this machine is {platform.machine()}")
    # S603: what runs is this very command
    again = subprocess.run([sys.executable, *sys.orig_argv[1:]], env=avx2_environment(), check=False)  # noqa: S603
    raise typer.Exit(again.returncode)


def _rows(path: Path | None) -> list[dict[str, Any]]:
    """The rows that are in the file."""
    return json_files.loads(path.read_text(encoding="utf-8"))["rows"] if path is not None and path.is_file() else []


def _finish(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        console().print(f"{len(result['rows'])} rows written to {path}")
