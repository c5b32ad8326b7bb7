"""`headmap datasets`: pages to profile on, in the registry of the data directory or of HEADMAP_DATABASE_URL."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import DataDir, console, fail, load_settings, one_line_errors, open_registry

app = typer.Typer(help="Datasets: add pages of your own, list, remove.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The dataset's name, for `headmap score --dataset` and POST /score.")]


@app.command("add")
@one_line_errors
def add(
    name: Name,
    source: Annotated[
        Path, typer.Argument(help="A folder as `headmap pages` writes it, or a zip, tar or tar.gz of one.", exists=True)
    ],
    data_dir: DataDir = None,
) -> None:
    """Look all pages through, and put them into the registry, where every worker finds them.

    \b
    Example:
      headmap datasets add invoices ./invoices.zip
    """
    from headmap.datasets.checking import check_archive, check_folder
    from headmap.datasets.uploads import check_name, file_upload

    check_name(name)
    settings = load_settings(data_dir)
    with open_registry(data_dir) as database:
        if source.is_dir():
            record, created = file_upload(database, name, check_folder(source, settings))
        else:
            with source.open("rb") as file, check_archive(file, settings) as upload:
                record, created = file_upload(database, name, upload)
    state = "" if created else ", there already"
    typer.echo(f"{record.name}  {record.pages} pages, {record.words} words, {record.bytes} bytes{state}")


@app.command("list")
@one_line_errors
def list_(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False, data_dir: DataDir = None) -> None:
    """List built-in datasets, then uploads, newest first.

    \b
    Example:
      headmap datasets list
    """
    from headmap.datasets.sources import BUILT_IN
    from headmap.registry.datasets import list_datasets

    with open_registry(data_dir) as database, database.read() as session:
        records, cursor = [], None
        while True:
            page = list_datasets(session, limit=200, cursor=cursor)
            records += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        body = {"built_in": BUILT_IN, "items": [asdict(record) for record in records]}
        typer.echo(json.dumps(body, default=str, indent=2))
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
def remove(name: Name, data_dir: DataDir = None) -> None:
    """Remove an upload with its pages; maps made from it stay.

    \b
    Example:
      headmap datasets rm invoices
    """
    from headmap.datasets.sources import BUILT_IN
    from headmap.registry.datasets import remove_dataset

    if name in BUILT_IN:
        fail(f"{name} is built in and cannot be removed")
    with open_registry(data_dir) as database:
        with database.write() as session:
            remove_dataset(session, name)
        database.shrink()
    typer.echo(f"removed {name}")
