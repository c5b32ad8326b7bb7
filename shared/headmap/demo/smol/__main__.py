"""Build, train and measure `headmap/smol-ocr`.

python -m headmap.demo.smol build
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from headmap.demo.smol.recipe import Recipe
from headmap.demo.training import keep_freed_memory, shown_progress

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

_CYCLES = Recipe().cycles
HeldOutSeed = Annotated[int, typer.Option(help="Seed of the pages.")]


@app.command()
def build(
    plain: Annotated[bool, typer.Option("--plain", help="Leave the language model as it was published.")] = False,
) -> None:
    """Build the model in the Hub cache, from SmolLM2's published weights and those in this package."""
    from headmap.demo.smol.build import NAME, PLAIN_NAME, build

    folder = build(updated=not plain)
    name = PLAIN_NAME if plain else NAME
    print(f"{name}: {folder}\nServe it: headmap up --model {name}")


@app.command()
def train(
    run_dir: Annotated[Path, typer.Option(help="Folder of checkpoints and log; an unfinished run goes on from there.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; RUN_DIR/trained.safetensors by default.")] = None,
    cycles: Annotated[int, typer.Option(min=1, max=len(_CYCLES), help="Cycles of training on answers.")] = len(_CYCLES),
    seed: Annotated[int, typer.Option(help="Seed of weights and pages.")] = Recipe().seed,
) -> None:
    """Train the eyes and the low-rank updates: minutes on a GPU, an hour a cycle or more on two CPU cores."""
    keep_freed_memory()
    import torch

    from headmap.demo.smol.language_model import download, read_gguf
    from headmap.demo.smol.train import Run, run_training

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = replace(Recipe(), cycles=_CYCLES[:cycles], seed=seed)
    run = Run(recipe, run_dir, read_gguf(download(run_dir)), device)
    with shown_progress(run.steps, run.step) as show:
        run_training(run, out or run_dir / "trained.safetensors", show)


@app.command()
def evaluate(
    pages: Annotated[int, typer.Option(min=1, help="Pages of each kind; two questions each.")] = 60,
    seed: HeldOutSeed = 9000,
    trained: Annotated[Path | None, typer.Option(help="Weights of another run than this package's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Print how many answers are right on held-out pages, as JSON."""
    from headmap.demo.smol.build import TRAINED, build, write_model
    from headmap.demo.smol.evaluate import measure
    from headmap.demo.smol.language_model import download

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        if trained is None:
            folder = build(trained=TRAINED)
        else:
            write_model(folder, download(trained.parent), trained)
        text = json.dumps(measure(folder, pages, seed), indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
