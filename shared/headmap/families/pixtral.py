"""Pixtral (LLaVA with Pixtral's vision): pictures at their own resolution, with a break token after each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from headmap.families.base import Family, VisualTokens
from headmap.families.pieces import PictureByPicture
from headmap.families.tiles import row_major, stacked

BREAK, END = "[IMG_BREAK]", "[IMG_END]"


class Pixtral(Family):
    name = "pixtral"

    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        # Mistral 3 merges patches; the picture is then resized to whole tokens.
        pixels = int(config.vision_config.patch_size) * int(getattr(config, "spatial_merge_size", 1))
        patch = {"height": pixels, "width": pixels}
        features = image_processor(images=list(images), patch_size=patch, return_tensors="pt")
        tokens = tuple(
            row_major(image.width, image.height, rows=height // pixels, cols=width // pixels)
            for image, (height, width) in zip(images, features["image_sizes"].tolist(), strict=True)
        )
        return {key: features[key] for key in ("pixel_values", "image_sizes")}, tokens

    def join_images(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join pixels (images, channels, height, width), padded to the largest picture, and image_sizes (images, 2)."""
        return {key: stacked([part[key] for part in parts]) for key in parts[0]}

    def written(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, image: VisualTokens) -> str:
        rows, cols = image.grid.shape
        return BREAK.join([self.image_token(config, tokenizer) * cols] * rows) + END

    def bound_activations(self, model: PreTrainedModel) -> None:
        super().bound_activations(model)
        model.model.vision_tower = PictureByPicture(model.model.vision_tower)
