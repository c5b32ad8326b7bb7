"""`headmap pages`: made-up pages with words, boxes and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import fail, json_option, one_line_errors, print_json, progress_bar


@one_line_errors
def pages(
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pages.")],
    out: Annotated[Path, typer.Option(help="The folder to write NNNN.png and pages.jsonl into.")],
    seed: Annotated[int, typer.Option(min=0, help="The series; a scoring job of this seed scores these pages.")] = 0,
    kind: Annotated[
        str, typer.Option(help="What the pages look like; `headmap datasets list` names all.")
    ] = "synthetic",
    fonts: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder of your own fonts, for --text in any script."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="What to write in --fonts: UTF-8, line by line.")
    ] = None,
    as_json: Annotated[bool, json_option("folder", "pages")] = False,
) -> None:
    """Write made-up pages: the same ones on any machine for the same seed.

    With --fonts and --text, pages of your own text; add the folder as a dataset to profile on it.

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
