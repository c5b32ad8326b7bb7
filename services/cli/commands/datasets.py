"""`headmap datasets`: pages to profile on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import (
    DataDir,
    console,
    fail,
    json_option,
    load_settings,
    one_line_errors,
    open_registry,
    print_json,
)
from services.cli.registry import registry

app = typer.Typer(help="List datasets, add your own pages, remove them.", no_args_is_help=True)

_FIELDS = ("id", "name", "pages", "words", "questions", "bytes", "checksum", "created_at")
_REPORT = ("blobs", "bytes", "missing", "damaged", "orphans")

Name = Annotated[str, typer.Argument(help="Name of the dataset, for `headmap score --dataset` and POST /score.")]


@app.command("add")
@one_line_errors
def add(
    name: Name,
    source: Annotated[
        Path, typer.Argument(help="Folder in the form of `headmap pages`, or a zip, tar or tar.gz of one.", exists=True)
    ],
    as_json: Annotated[bool, json_option("created", *_FIELDS)] = False,
    data_dir: DataDir = None,
) -> None:
    """Check all pages, and store them for every worker.

    \b
    Example:
      headmap datasets add invoices ./invoices.zip
    """
    with registry(data_dir) as found:
        record, created = found.add_dataset(name, source)
    if as_json:
        print_json({"created": created, **asdict(record)})
        return
    state = "" if created else ", there already"
    typer.echo(f"{record.name}  {record.pages} pages, {record.words} words, {record.bytes} bytes{state}")


@app.command("list")
@one_line_errors
def list_(as_json: Annotated[bool, json_option("built_in", "items")] = False, data_dir: DataDir = None) -> None:
    """List the built-in datasets, then your own, newest first.

    \b
    Example:
      headmap datasets list
    """
    from headmap.datasets.sources import BUILT_IN

    with registry(data_dir) as found:
        records = found.datasets()
    if as_json:
        print_json({"built_in": BUILT_IN, "items": records})
        return
    from rich.table import Table

    def number(value: int) -> str:
        return f"{value:,}"

    table = Table("name", "pages", "words", "bytes", "added", box=None, pad_edge=False)
    for name in BUILT_IN:
        table.add_row(name, "-", "-", "-", "built in")
    for one in records:
        added = f"{one.created_at:%Y-%m-%d %H:%M}"
        table.add_row(one.name, number(one.pages), number(one.words), number(one.bytes), added)
    console().print(table)


@app.command("rm")
@one_line_errors
def remove(name: Name, as_json: Annotated[bool, json_option("removed")] = False, data_dir: DataDir = None) -> None:
    """Remove an uploaded dataset with its pages. Maps made from it stay.

    \b
    Example:
      headmap datasets rm invoices
    """
    from headmap.datasets.sources import BUILT_IN

    if name in BUILT_IN:
        fail(f"{name} is built in and cannot be removed")
    with registry(data_dir) as found:
        found.remove_dataset(name)
    if as_json:
        print_json({"removed": name})
    else:
        typer.echo(f"removed {name}")


@app.command("check")
@one_line_errors
def check(
    read: Annotated[bool, typer.Option("--read", help="Also read every blob, and compare its checksum.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Delete what no dataset has.")] = False,
    as_json: Annotated[bool, json_option("place", *_REPORT, "cleared")] = False,
    data_dir: DataDir = None,
) -> None:
    """Hold the blob store against the registry. Exit code 1 if pages of a dataset are missing or damaged.

    Orphans are blobs that no dataset has, of uploads that broke off more than a day ago.

    \b
    Example:
      headmap datasets check --clear
    """
    from headmap.blobs.location import open_blobs
    from headmap.datasets.upkeep import check_store, clear_orphans

    blobs = open_blobs(load_settings(data_dir))
    with open_registry(data_dir) as database:
        report = check_store(database, blobs, read=read)
        cleared = clear_orphans(database, blobs, report.orphans) if clear else 0
    if as_json:
        print_json({"place": blobs.place, **asdict(report), "cleared": cleared})
    else:
        typer.echo(f"{blobs.place}: {report.blobs} blobs, {report.bytes} bytes")
        for word, found in (("missing", report.missing), ("damaged", report.damaged)):
            for name, checksums in found.items():
                typer.echo(f"dataset {name}: {len(checksums)} {word}: {', '.join(checksums)}")
        size = sum(one.bytes for one in report.orphans)
        typer.echo(f"{len(report.orphans)} orphans, {size} bytes" + (f"; {cleared} deleted" if clear else ""))
    if report.missing or report.damaged:
        raise typer.Exit(1)
