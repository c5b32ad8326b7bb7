"""`headmap pages`: made-up pages with words, boxes and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import one_line_errors, progress_bar


@one_line_errors
def pages(
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many pages.")],
    out: Annotated[Path, typer.Option(help="The folder to write NNNN.png and pages.jsonl into.")],
    seed: Annotated[int, typer.Option(min=0, help="The series; a scoring job of this seed scores these pages.")] = 0,
) -> None:
    """Write made-up pages: the same ones on any machine for the same seed."""
    from headmap.scoring.pages import write_pages

    with progress_bar("pages") as bar:
        task = bar.add_task("Drawing", total=count)
        write_pages(out, count, seed, on_page=lambda done: bar.update(task, completed=done))
    typer.echo(str(out))
