"""A real model and one prompt for it. Imports nothing of headmap: peers read both in environments of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PixtralVisionConfig, PreTrainedModel

HEAD_SCORES = "head_scores"


@dataclass(frozen=True)
class Checkpoint:
    """A model's name and folder, and the file of a prompt, which holds the model's head scores too."""

    name: str
    folder: str
    prompt: str

    def load(self, dtype: torch.dtype, device: str) -> PreTrainedModel:
        """The model as transformers runs it."""
        config = AutoConfig.from_pretrained(self.folder, local_files_only=True)
        vision = getattr(config, "vision_config", None)
        if isinstance(vision, PixtralVisionConfig):  # releases name its one kind of rotary embedding differently
            kind = (PixtralVisionConfig().rope_parameters or {})["rope_type"]
            vision.rope_parameters = {**(vision.rope_parameters or {}), "rope_type": kind}
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            self.folder, config=config, dtype=dtype, attn_implementation="sdpa", use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
        return torch.nn.Module.to(model, device).eval()

    def inputs(self, dtype: torch.dtype, device: str) -> dict[str, torch.Tensor]:
        """input_ids, (1, n) int64, and the tensors of its pictures."""
        held = load_file(self.prompt, device)
        del held[HEAD_SCORES]
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in held.items()}

    def head_scores(self) -> torch.Tensor:
        """(num_layers, num_heads) float64."""
        return load_file(self.prompt)[HEAD_SCORES]


def save_prompt(path: Path, inputs: dict[str, torch.Tensor], head_scores: torch.Tensor) -> None:
    save_file({**inputs, HEAD_SCORES: head_scores}, path)
