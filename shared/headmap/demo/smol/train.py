"""Train the eyes: first the vision tower on single characters, then all of it on answers.

The tower learns to emit SmolLM2's own embedding of each cell's character, so that a page is to the language model what
the page's text would be. That takes minutes, because no language model is in the loop. Answers then teach the low-rank
updates, and go on teaching the tower.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from transformers import LlavaForConditionalGeneration

from headmap.demo.checkpoints import load_checkpoint, save_checkpoint
from headmap.demo.smol.assets import build_config
from headmap.demo.smol.batches import CELL_CHARACTERS, IGNORE, Batch, BatchMaker
from headmap.demo.smol.language_model import LanguageModel
from headmap.demo.smol.model import add_updates, with_picture_tokens
from headmap.demo.smol.recipe import Recipe

LOG_EVERY = 10
SAVE_EVERY_SECONDS = 120


class Run:
    """A training run. `step` counts finished optimizer steps, those of the tower alone first."""

    def __init__(self, recipe: Recipe, folder: Path, language_model: LanguageModel, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        language_model = with_picture_tokens(language_model)
        tokenizer = language_model.tokenizer
        self.recipe, self.folder, self.device = recipe, folder, device
        self.model = LlavaForConditionalGeneration(build_config(language_model.config, tokenizer))
        self.model.model.language_model.load_state_dict(language_model.weights)
        self.model.model.language_model.to(torch.bfloat16)  # frozen: half the memory, twice the speed
        self.trained = add_updates(self.model)
        modules: nn.Module = self.model
        modules.to(device)
        vision, updates = self.trained["vision"], self.trained["updates"]
        self.glyph_optimizer = AdamW(vision.parameters(), recipe.glyph_lr)
        groups = [
            {"params": list(updates.parameters()), "full_lr": recipe.update_lr},
            {"params": list(vision.parameters()), "full_lr": recipe.vision_lr},
        ]
        self.optimizer = AdamW(groups, weight_decay=0.0)
        self._batches = BatchMaker(tokenizer, recipe.seed)
        ids = [tokenizer(character, add_special_tokens=False)["input_ids"][0] for character in CELL_CHARACTERS]
        self.glyphs = self.model.model.language_model.embed_tokens.weight[ids].float().detach()
        """[characters, hidden] what the tower is to emit."""
        self.step = load_checkpoint(folder, recipe.seed, self.trained, [self.glyph_optimizer, self.optimizer])

    @property
    def steps(self) -> int:
        return self.recipe.glyph_steps + self.recipe.steps

    def train_step(self) -> dict[str, float]:
        """Run one optimizer step, and return its losses and accuracies."""
        if self.step < self.recipe.glyph_steps:
            figures = self._glyph_step()
        else:
            figures = self._answer_step(self.step - self.recipe.glyph_steps)
        self.step += 1
        return figures

    def _glyph_step(self) -> dict[str, float]:
        recipe = self.recipe
        share = min(1.0, (self.step + 1) / recipe.warmup_steps) * (1 - self.step / recipe.glyph_steps)
        self.glyph_optimizer.param_groups[0]["lr"] = recipe.glyph_lr * share
        batch = self._on_device(self._batches.batch(recipe.glyphs, self.step))
        loss, accuracy = self._cell_loss(self._see(batch), batch)
        self._apply(loss, self.glyph_optimizer)
        return {"cells": float(loss.detach()), "cell_accuracy": accuracy}

    def _answer_step(self, step: int) -> dict[str, float]:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * recipe.lr_share(step)
        batch = self._on_device(self._batches.batch(recipe.stage_at(step), self.step))
        seen = self._see(batch)
        text = self.model.model.language_model
        embeddings = text.embed_tokens(batch.input_ids)
        is_image = batch.input_ids == self.model.config.image_token_index
        embeddings = embeddings.masked_scatter(is_image[..., None], seen.to(embeddings.dtype))
        mask = batch.mask.to(embeddings.dtype)
        hidden = text(inputs_embeds=embeddings, attention_mask=mask, position_ids=batch.positions, use_cache=False)
        asked = batch.labels != IGNORE
        logits = (hidden.last_hidden_state[asked] @ text.embed_tokens.weight.T).float()
        labels, whole = batch.labels[asked], batch.is_transcription[asked]
        losses = cross_entropy(logits, labels, reduction="none")
        right = logits.argmax(-1) == labels
        cells, accuracy = self._cell_loss(seen, batch)
        lookup, transcription = _mean(losses[~whole]), _mean(losses[whole])
        total = lookup + recipe.transcription_weight * transcription + recipe.cell_weight * cells
        self._apply(total, self.optimizer)
        figures = {"lookup": float(lookup.detach()), "lookup_accuracy": float(_mean(right[~whole].float()))}
        if whole.any():
            figures["transcription"] = float(transcription.detach())
            figures["transcription_accuracy"] = float(right[whole].float().mean())
        return {**figures, "cell_accuracy": accuracy}

    def _see(self, batch: Batch) -> Tensor:
        """Run the tower on one picture after the other: the embedding of each cell, [N, hidden]."""
        model = self.model.model
        features = []
        for pixels, (height, width) in zip(batch.pixel_values, batch.image_sizes.tolist(), strict=True):
            picture = pixels[None, :, :height, :width]
            features.append(model.vision_tower(picture, image_sizes=[(height, width)]).last_hidden_state[0])
        return model.multi_modal_projector(torch.cat(features))

    def _cell_loss(self, seen: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """The distance of cells to their characters' embeddings, and the share of characters that are told right."""
        distances = torch.cdist(seen, self.glyphs).square()
        scale = self.glyphs.var(0).sum()
        own = distances.gather(1, batch.cells[:, None]).mean() / scale
        nearest = cross_entropy(-8 * distances / scale, batch.cells)
        inked = batch.cells > 0
        accuracy = float((distances.argmin(1) == batch.cells)[inked].float().mean())
        return own + nearest, accuracy

    def _apply(self, loss: Tensor, optimizer: AdamW) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _on_device(self, batch: Batch) -> Batch:
        return replace(batch, **{name: value.to(self.device) for name, value in vars(batch).items()})

    def save(self) -> None:
        """Write the checkpoint."""
        optimizers: list[Optimizer] = [self.glyph_optimizer, self.optimizer]
        save_checkpoint(self.folder, self.step, self.recipe.seed, self.trained, optimizers)

    def export(self, path: Path) -> None:
        """Write all that was trained, in bfloat16."""
        export_trained(self.trained, path)


def export_trained(trained: nn.Module, path: Path) -> None:
    """Write trained weights in bfloat16, for `build`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = trained.state_dict().items()
    save_file({name: value.to("cpu", torch.bfloat16).contiguous() for name, value in state}, path, {"format": "pt"})


def run_training(run: Run, out: Path, show: Callable[[int, str], None]) -> None:
    """Train to the end of the recipe. Writes checkpoints and `log.jsonl` to the run's folder, trained weights to `out`.

    `show` receives the step and a readable line.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    sums: dict[str, list[float]] = {}
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as log:
        while run.step < run.steps:
            for name, value in run.train_step().items():
                sums.setdefault(name, []).append(value)
            last = run.step == run.steps
            if run.step % LOG_EVERY == 0 or last:
                means = {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
                sums = {}
                log.write(json.dumps({"step": run.step, **means}) + "\n")
                log.flush()
                show(run.step, ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
            if last or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                run.save()
                run.export(out)
                saved = time.monotonic()


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 of nothing."""
    return values.mean() if len(values) else values.sum()
