"""LLaVA-NeXT (Vicuna, Llama and Mistral text models): a small whole picture, then high-resolution tiles.

The first (size / patch)^2 tokens show the whole picture. The tiles of the best-fitting resolution follow, joined and
without padding. They are in row order, with a newline token after each row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PretrainedConfig
from transformers.image_processing_utils import select_best_resolution

from headmap.families.base import Axis, Family, VisualTokens
from headmap.families.tiles import stacked

if TYPE_CHECKING:
    from PIL import Image


class LlavaNext(Family):
    name = "llava_next"

    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        features = image_processor(images=list(images), return_tensors="pt")
        tokens = tuple(visual_tokens(config, image.width, image.height) for image in images)
        return {key: features[key] for key in ("pixel_values", "image_sizes")}, tokens

    def join_images(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join pixels (images, tiles, channels, side, side), padded to the most tiles, and image_sizes (images, 2)."""
        return {key: stacked([part[key] for part in parts]) for key in parts[0]}


def visual_tokens(config: PretrainedConfig, width: int, height: int) -> VisualTokens:
    """Locate the tokens of a picture of `width` x `height` pixels. Regions refer to the tiles."""
    side = int(config.vision_config.image_size) // int(config.vision_config.patch_size)
    x, y = tiled_axes(config, width, height)
    base = side * side + _class_token(config)
    grid = base + np.arange(y.cells * (x.cells + 1), dtype=np.int64).reshape(y.cells, x.cells + 1)[:, :-1]
    return VisualTokens(base + y.cells * (x.cells + 1), grid, x, y)


def tiled_axes(config: PretrainedConfig, width: int, height: int) -> tuple[Axis, Axis]:
    """The columns and rows of patches that show the picture at the best-fitting resolution, without padding."""
    tile = int(config.vision_config.image_size)
    side = tile // int(config.vision_config.patch_size)
    best_height, best_width = select_best_resolution((height, width), config.image_grid_pinpoints)
    return (
        _axis(width, height, best_width, best_height, tile, side),
        _axis(height, width, best_height, best_width, tile, side),
    )


def _class_token(config: PretrainedConfig) -> int:
    return 0 if config.vision_feature_select_strategy == "default" else 1


def _axis(length: int, other: int, best: int, best_other: int, tile: int, side: int) -> Axis:
    """Compute one axis: scale the picture to fit `best`, centre it, cut it into patches and drop padding rows.

    The processor pads in pixels, and the model removes padding in patches. This function reproduces both roundings.
    """
    patches = best // tile * side
    scale = min(best / length, best_other / other)
    resized = min(math.ceil(length * scale), best) if best / length > best_other / other else best
    pad_pixels = (best - resized) // 2
    dropped = 0
    other_patches = best_other // tile * side
    if length / other <= patches / other_patches:
        inside = int(round(length * (other_patches / other), 7))
        dropped = (patches - inside) // 2
    per_patch = tile / side
    return Axis(patches - 2 * dropped, resized / length / per_patch, pad_pixels / per_patch - dropped)
