"""InternVL3 (the transformers class): tiles in the arrangement with the nearest aspect ratio, then a thumbnail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from headmap.families.base import Family, VisualTokens
from headmap.families.tiles import tiled


class InternVL(Family):
    name = "internvl"

    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        features = image_processor(images=list(images), crop_to_patches=True, return_tensors="pt")
        side, size = _side(config), image_processor.size
        tokens = []
        for image in images:
            area = image.width * image.height / (size["width"] * size["height"])
            fewest, most = image_processor.min_patches, image_processor.max_patches
            rows, cols = arrangement(image.width / image.height, area, fewest, most)
            whole = side * side if rows * cols > 1 else 0
            tokens.append(tiled(image.width, image.height, rows=rows, cols=cols, side=side, whole_tokens=whole))
        return {"pixel_values": features["pixel_values"]}, tuple(tokens)

    def skip_images(
        self, config: PretrainedConfig, inputs: Mapping[str, torch.Tensor], skipped: Sequence[VisualTokens]
    ) -> dict[str, torch.Tensor]:
        tiles = sum(image.count for image in skipped) // _side(config) ** 2
        return {"pixel_values": inputs["pixel_values"][tiles:]}

    def written(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, image: VisualTokens) -> str:
        inside = super().written(config, tokenizer, image)
        return f"{tokenizer.start_image_token}{inside}{tokenizer.end_image_token}"


def arrangement(shape: float, area: float, fewest: int, most: int) -> tuple[int, int]:
    """Rows and columns of tiles for a picture of `shape` (width / height) and `area` (in tiles).

    This is the arrangement with the nearest aspect ratio. A tie goes to the arrangement with the most tiles of which
    the picture fills more than half.
    """
    options = [
        (rows, cols) for cols in range(1, most + 1) for rows in range(1, most + 1) if fewest <= rows * cols <= most
    ]
    best, nearest = (1, 1), float("inf")
    for rows, cols in sorted(options, key=lambda option: option[0] * option[1]):
        distance = abs(shape - cols / rows)
        if distance < nearest or (distance == nearest and area > 0.5 * rows * cols):
            best, nearest = (rows, cols), distance
    return best


def _side(config: PretrainedConfig) -> int:
    """The number of tokens along a tile's side, after patches are merged."""
    vision = config.vision_config
    return int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)
