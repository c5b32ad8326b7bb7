"""LLaVA-OneVision: like LLaVA-NeXT with more resolutions and a size limit; several pictures have one tile each.

A single picture has the whole picture at the base resolution first. Then come the tiles without padding, with a newline
token after each row. The tiles are scaled down if they exceed `anyres_max_N` times the base size. If a prompt has
several pictures, each is padded to a square around its centre. It becomes one tile, with a newline token at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PretrainedConfig

from headmap.families.base import Axis, Family, PreparedPrompt, VisualTokens
from headmap.families.llava_next import tiled_axes
from headmap.families.tiles import stacked


class LlavaOnevision(Family):
    name = "llava_onevision"

    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        features = image_processor(images=[list(images)], return_tensors="pt")
        tokens = one_picture if len(images) == 1 else one_of_several
        names = ("pixel_values", "image_sizes", "batch_num_images")
        return {key: features[key] for key in names}, tuple(
            tokens(config, image.width, image.height) for image in images
        )

    def skip_images(
        self, config: PretrainedConfig, inputs: Mapping[str, torch.Tensor], skipped: Sequence[VisualTokens]
    ) -> dict[str, torch.Tensor]:
        rest = super().skip_images(config, inputs, skipped)
        # The count of the whole prompt: a picture that was one of several stays one tile, even if it is left alone.
        return {**rest, "batch_num_images": inputs["batch_num_images"]}

    def packs(self, prompt: PreparedPrompt) -> bool:
        """False if one of several pictures is left, because the model would split it into tiles."""
        return len(prompt.images) != 1 or int(prompt.inputs["batch_num_images"]) == 1

    def join_images(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join pixels (images, tiles, channels, side, side), padded to the most tiles, and image_sizes (images, 2).

        batch_num_images (prompts,): the number of pictures of each prompt.
        """
        sizes = [part["image_sizes"] for part in parts]
        return {
            "pixel_values": stacked([part["pixel_values"] for part in parts]),
            "image_sizes": torch.cat(sizes),
            "batch_num_images": torch.tensor([len(own) for own in sizes]),
        }


def one_picture(config: PretrainedConfig, width: int, height: int) -> VisualTokens:
    """Locate the tokens of a prompt's only picture. Regions refer to the tiles."""
    side = int(config.vision_config.image_size) // int(config.vision_config.patch_size)
    x, y = tiled_axes(config, width, height)
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(x.cells * y.cells / (most * side**2))
    if ratio > 1.1:
        x, y = _shrunk(x, ratio), _shrunk(y, ratio)
    rows = np.arange(y.cells * (x.cells + 1), dtype=np.int64).reshape(y.cells, x.cells + 1)
    return VisualTokens(side * side + rows.size, side * side + rows[:, :-1], x, y)


def one_of_several(config: PretrainedConfig, width: int, height: int) -> VisualTokens:
    """Locate the tokens of one picture among several."""
    side = int(config.vision_config.image_size) // int(config.vision_config.patch_size)
    square = max(width, height)
    grid = np.arange(side * side, dtype=np.int64).reshape(side, side)
    x, y = (Axis(side, side / square, (square - length) // 2 * side / square) for length in (width, height))
    return VisualTokens(side * side + 1, grid, x, y)


def _shrunk(axis: Axis, ratio: float) -> Axis:
    cells = int(axis.cells // ratio)
    return Axis(cells, axis.scale * cells / axis.cells, axis.offset * cells / axis.cells)
