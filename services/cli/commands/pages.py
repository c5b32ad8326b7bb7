"""`headmap pages`: made-up pages with words, boxes and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import fail, json_option, one_line_errors, print_json, progress_bar


@one_line_errors
def pages(
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of pages.")],
    out: Annotated[Path, typer.Option(help="Folder to write NNNN.png and pages.jsonl into.")],
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the pages; a scoring job with this seed scores the same pages.")
    ] = 0,
    kind: Annotated[str, typer.Option(help="Kind of pages; `headmap datasets list` names all kinds.")] = "synthetic",
    fonts: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of your own fonts, for --text in any script."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="File of the text to write in --fonts: UTF-8, line by line."),
    ] = None,
    as_json: Annotated[bool, json_option("folder", "pages")] = False,
) -> None:
    """Write made-up pages. The same seed makes the same pages on any machine.

    --fonts and --text make pages of your own text. Add their folder as a dataset to profile on them.

    \b
    Example:
      headmap pages --count 10 --kind receipts --out receipts
    """
    from functools import partial

    from headmap.datasets.own_fonts import text_pages
    from headmap.datasets.page_folder import write_pages
    from headmap.datasets.sources import MADE_UP

    if kind not in MADE_UP:
        fail(f"--kind: must be one of {', '.join(MADE_UP)}, got {kind!r}", code=2)
    if (fonts is None) != (text is None):
        fail("--fonts and --text: give both or none", code=2)
    make = partial(MADE_UP[kind], seed) if fonts is None or text is None else text_pages(fonts, text, seed)
    with progress_bar("pages") as bar:
        task = bar.add_task("Drawing", total=count)
        write_pages(out, count, make, on_page=lambda done: bar.update(task, completed=done))
    if as_json:
        print_json({"folder": out, "pages": count})
    else:
        typer.echo(str(out))
