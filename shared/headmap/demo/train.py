"""Train the bundled model from scratch, in one run.

    python -m headmap.demo.train --run-dir RUN [--out FOLDER]

Training takes about an hour on two CPU cores and uses a GPU if there is one. The run is seeded and saves a checkpoint
every few minutes. It resumes from the checkpoint if it is started again with the same `--run-dir`. Every few hundred
steps and at the end it writes the model to `--out`, in bfloat16, and measures it on unseen pages.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.optim import Optimizer
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from headmap.demo.assets import build_config, build_tokenizer, write_assets
from headmap.demo.batches import BatchMaker
from headmap.demo.checkpoints import load_checkpoint, save_checkpoint
from headmap.demo.evaluate import HELD_OUT_SEED, evaluate, load
from headmap.demo.losses import CellHead, Losses, compute_losses, prepare
from headmap.demo.optim import build_optimizers, set_lr
from headmap.demo.recipe import Recipe
from headmap.demo.training import keep_freed_memory, shown_progress
from headmap.scoring.pages import make_page

LOG_EVERY = 25
SHOWN = ("context", "jump", "transcription", "lookup")
SAVE_EVERY_SECONDS = 180


class Run:
    """A training run: the model, its optimizers and the number of finished steps.

    The pages of a step are split into `recipe.shares` shares. A single process runs all shares in turn. Several
    processes each run some shares and add up their gradients. The results are equal up to rounding.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        config: Qwen2VLConfig | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.is_main = rank == 0
        self._shares = range(rank, recipe.shares, world)
        self._world = world
        tokenizer = build_tokenizer()
        config = config or build_config(tokenizer)
        self.model = Qwen2VLForConditionalGeneration(config).float()
        prepare(self.model)
        self.head = CellHead(self.model.model.language_model.config.hidden_size, recipe.context)
        self.modules = nn.ModuleDict({"model": self.model, "head": self.head}).to(device)
        self.optimizers: list[Optimizer] = build_optimizers(self.modules, recipe.muon_lr, recipe.adam_lr)
        self._batches = BatchMaker(tokenizer, recipe.seed, recipe.context)
        self.step = load_checkpoint(folder, recipe.seed, self.modules, self.optimizers)

    def train_step(self) -> Losses:
        """Run one optimizer step. The returned losses are those from this process's last share."""
        recipe, stage = self.recipe, self.recipe.stage_at(self.step)
        lr_share = recipe.lr_share(self.step)
        set_lr(self.optimizers, recipe.muon_lr * lr_share, recipe.adam_lr * lr_share)
        for share in self._shares:
            batch = self._batches.batch(stage, self.step, share).to(self.device)
            losses = compute_losses(self.model, self.head, batch, stage.reads, recipe.cell_weight, recipe.look_weight)
            (losses.total / recipe.shares).backward()
        self._add_up_gradients()
        nn.utils.clip_grad_norm_(self.modules.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses

    def _add_up_gradients(self) -> None:
        if self._world == 1:
            return
        gradients = [param.grad for param in self.modules.parameters() if param.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.folder, self.step, self.recipe.seed, self.modules, self.optimizers)

    def export(self, out: Path) -> None:
        """Write the model folder that transformers' Auto classes load."""
        export_model(self.model, out)


def export_model(model: Qwen2VLForConditionalGeneration, out: Path) -> None:
    """Write weights (bfloat16), configuration, tokenizer, chat template and processor files."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {
        name.removeprefix("model."): value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file({f"model.{name}": value for name, value in tensors.items()}, out / "model.safetensors", {"format": "pt"})
    config = Qwen2VLConfig.from_dict(model.config.to_dict())
    config.dtype = torch.bfloat16
    config.save_pretrained(out)
    write_assets(out)


class Means:
    """Running means of the losses since they were last shown."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, losses: Losses) -> None:
        """Add the losses of one step."""
        self._count += 1
        for field in fields(losses):
            value = getattr(losses, field.name).detach()
            self._sums[field.name] = self._sums[field.name] + value if field.name in self._sums else value

    def take(self) -> dict[str, float]:
        """Return the means and reset them."""
        means = {name: round(float(value) / self._count, 4) for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


def run_training(run: Run, out: Path, evaluate_every: int, pages: int, show: Callable[[int, str], None]) -> None:
    """Train to the end of the recipe.

    The main process writes the model folder `out`, the checkpoints, and `log.jsonl` beside the checkpoints. `show`
    receives the step and a readable line.
    """
    if not run.is_main:
        while run.step < run.recipe.steps:
            run.train_step()
        return
    means, saved, started = Means(), time.monotonic(), time.monotonic()
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as log:

        def note(entry: dict[str, Any]) -> None:
            log.write(json.dumps({"step": run.step, "seconds": round(time.monotonic() - started), **entry}) + "\n")
            log.flush()

        while run.step < run.recipe.steps:
            means.add(run.train_step())
            last = run.step == run.recipe.steps
            if run.step % LOG_EVERY == 0 or last:
                stage, values = run.recipe.stage_at(run.step - 1).name, means.take()
                note({"stage": stage, **values})
                shown = (
                    f"{name} {values[name + '_accuracy']:.3f}"
                    for name in ("context", "jump", "transcription", "lookup")
                )
                show(run.step, f"{stage}: {', '.join(shown)}")
            if last or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                run.save()
                saved = time.monotonic()
            if last or run.step % evaluate_every == 0:
                run.export(out)
            if pages and (last or run.step % evaluate_every == 0):
                figures = evaluate(*load(out), (make_page(HELD_OUT_SEED + 1, i) for i in range(pages)))
                note({"held_out": figures})
                show(
                    run.step, "held out: " + ", ".join(f"{k} {v['value']}" for k, v in figures.items() if k != "pages")
                )


def _worker(rank: int, world: int, port: int, recipe: Recipe, run_dir: Path, out: Path, every: int, pages: int) -> None:
    """One process of the run. Only the first process writes files and prints."""
    if world > 1:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run(recipe, run_dir, device, rank=rank, world=world)
    with shown_progress(recipe.steps, run.step, silent=rank > 0) as show:
        run_training(run, out, every, pages, show)
    if world > 1:
        distributed.destroy_process_group()


def main(
    run_dir: Annotated[Path, typer.Option(help="Folder of checkpoints and log; an unfinished run goes on from there.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write the model to; RUN_DIR/model by default.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = Recipe().steps,
    seed: Annotated[int, typer.Option(help="Seed of weights and pages.")] = Recipe().seed,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps from one evaluation to the next.")] = 300,
    pages: Annotated[int, typer.Option(min=0, help="Held-out pages of an evaluation during the run; 0 for none.")] = 8,
) -> None:
    """Train the bundled model."""
    recipe = replace(Recipe(), steps=steps, seed=seed)
    # On a CPU one process per core is faster than one process on all cores. A GPU runs all shares in one process.
    world = 1 if torch.cuda.is_available() else min(recipe.shares, os.cpu_count() or 1)
    keep_freed_memory()
    arguments = (world, _free_port(), recipe, run_dir, out or run_dir / "model", evaluate_every, pages)
    spawn(_worker, arguments, nprocs=world)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    typer.run(main)
