"""The entry point `headmap`. Only typer is imported here, so that `--help` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

import headmap
from services.cli.commands import (
    aliases,
    bench,
    compare,
    datasets,
    doctor,
    evaluate,
    generate,
    hub,
    keys,
    maps,
    models,
    pages,
    policies,
    score,
    show_head,
    sizing,
    up,
)
from services.cli.common import Url, work_on

app = typer.Typer(
    name="headmap",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # as markup, a text's [brackets] would vanish
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"headmap {headmap.__version__}")
        raise typer.Exit


@app.callback()
def root(
    url: Url = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Profile a multimodal model's visual heads once, then serve it with a KV cache sized head by head.

    \b
    What people do first:
      1. See it in the browser     headmap up --open
      2. Profile a model           headmap score headmap/demo-ocr --pages 40
      3. Look at the map           headmap maps list
      4. Ask with a fifth of the   headmap generate headmap/demo-ocr --ratio 0.2
         cache                       --image page.png "What is the value of BXP?"
      5. Serve your own model      headmap up --model Qwen/Qwen2-VL-2B-Instruct

    \b
    `headmap COMMAND -h` has an example of each command.
    `headmap --install-completion` completes commands in your shell.

    Exit codes: 0, it worked; 1, it failed, and one line on standard error says why; 2, wrong usage or a wrong setting;
    3, `maps check` found the maps too different, or `evaluate --require` the loss too large; 130, interrupted.
    docs/command-line.md has every command.
    """
    work_on(url)


app.command("up")(up.up)
app.command("score")(score.score)
app.command("generate")(generate.generate)
app.command("evaluate")(evaluate.evaluate)
maps.app.command("diff")(compare.diff)
maps.app.command("check")(compare.check)
maps.app.command("alias")(aliases.alias)
maps.app.command("history")(aliases.history)
maps.app.command("note")(aliases.note)
maps.app.command("delete")(aliases.delete)
maps.app.command("push")(hub.push)
maps.app.command("pull")(hub.pull)
app.add_typer(maps.app, name="maps")
app.command("show-head")(show_head.show_head)
app.add_typer(policies.app, name="policies")
app.add_typer(keys.app, name="keys")
app.add_typer(datasets.app, name="datasets")
app.command("pages")(pages.pages)
app.command("models")(models.models)
app.command("sizing")(sizing.sizing)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app, name="bench")

if __name__ == "__main__":
    app()
