"""The model from its two halves: SmolLM2's weights, and what was trained here.

What was trained is a vision tower with its projector, and low-rank updates (LoRA, arXiv 2106.09685, section 4.1) of the
attention's projections. Every other weight is SmolLM2's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from headmap.demo.smol.assets import BREAK, IMAGE, IMAGE_END, NEWLINE

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


def load_language_model(
    model: LlavaForConditionalGeneration, weights: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Give the text model SmolLM2's weights. The end of a picture's row starts as the newline that it stands for."""
    embeddings = weights["embed_tokens.weight"]
    rows = [embeddings]
    like = {IMAGE: NEWLINE, BREAK: NEWLINE, IMAGE_END: NEWLINE}
    for token in tokenizer.convert_ids_to_tokens(list(range(len(embeddings), len(tokenizer)))):
        (same,) = tokenizer(like[token], add_special_tokens=False)["input_ids"]
        rows.append(embeddings[same : same + 1])
    model.model.language_model.load_state_dict({**weights, "embed_tokens.weight": torch.cat(rows)})


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


def merge_updates(model: LlavaForConditionalGeneration) -> None:
    """Make the updates part of the weights."""
    for layer in model.model.language_model.layers:
        for name in UPDATED:
            parametrize.remove_parametrizations(getattr(layer.self_attn, name), "weight")
