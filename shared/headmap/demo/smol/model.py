"""The model from its two halves: SmolLM2's weights, and what was trained here.

What was trained is a vision tower with its projector, and low-rank updates (LoRA, arXiv 2106.09685, section 4.1) of the
attention's projections. Every other weight is SmolLM2's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import LlavaForConditionalGeneration

from headmap.demo.smol.assets import NEWLINE, add_picture_tokens
from headmap.demo.smol.language_model import LanguageModel

RANK = 16
UPDATED = ("q_proj", "k_proj", "v_proj", "o_proj")


class LowRank(nn.Module):
    """Adds `up @ down` to a weight. It starts as zero."""

    def __init__(self, rows: int, cols: int, rank: int = RANK) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, cols) / cols**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight, (rows, cols), in the weight's dtype."""
        return weight + (self.up @ self.down).to(weight.dtype)


def with_picture_tokens(language_model: LanguageModel) -> LanguageModel:
    """The language model with the three tokens of a picture. Their embedding is the newline's, which ends rows too."""
    add_picture_tokens(language_model.tokenizer)
    embeddings = language_model.weights["embed_tokens.weight"]
    (newline,) = language_model.tokenizer(NEWLINE, add_special_tokens=False)["input_ids"]
    rows = embeddings[newline].expand(len(language_model.tokenizer) - len(embeddings), -1)
    weights = {**language_model.weights, "embed_tokens.weight": torch.cat([embeddings, rows])}
    return replace(language_model, weights=weights)


def add_updates(model: LlavaForConditionalGeneration) -> nn.ModuleDict:
    """Add trainable updates to the text model, freeze the rest of it, and return all that is trained, by name."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    updates = nn.ModuleDict()
    for number, layer in enumerate(model.model.language_model.layers):
        for name in UPDATED:
            linear = getattr(layer.self_attn, name)
            update = LowRank(*linear.weight.shape)
            parametrize.register_parametrization(linear, "weight", update)
            updates[f"{number}_{name}"] = update
    vision = nn.ModuleDict({"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector})
    for parameter in vision.parameters():
        parameter.requires_grad_(True)
    return nn.ModuleDict({"vision": vision, "updates": updates})


def merge(weights: Mapping[str, Tensor], trained: Mapping[str, Tensor], *, updated: bool = True) -> dict[str, Tensor]:
    """Return the weights of the whole model in bfloat16, under the names that transformers gives them.

    `weights`: of the language model, in float32. `trained`: of what `add_updates` returns. Sums are in float64, so that
    every machine rounds them to the same bits. `updated`: whether the language model is updated, or SmolLM2's own.
    """
    text = dict(weights)
    for name in (name.removesuffix(".up") for name in trained if updated and name.endswith(".up")):
        number, projection = name.removeprefix("updates.").split("_", 1)
        place = f"layers.{number}.self_attn.{projection}.weight"
        text[place] = text[place].double() + trained[f"{name}.up"].double() @ trained[f"{name}.down"].double()
    whole = {f"model.language_model.{name}": value for name, value in text.items()}
    for part, place in (
        ("vision.tower.", "model.vision_tower."),
        ("vision.projector.", "model.multi_modal_projector."),
    ):
        whole |= {place + name.removeprefix(part): value for name, value in trained.items() if name.startswith(part)}
    return {name: value.to(torch.bfloat16).contiguous() for name, value in whole.items()}
