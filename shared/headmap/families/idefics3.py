"""Idefics3 and SmolVLM: the picture is stretched over named tiles, then the whole picture follows as one tile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from headmap.families.base import Family, VisualTokens
from headmap.families.tiles import tiled

AROUND = "<fake_token_around_image>"
WHOLE = "<global-img>"


class Idefics3(Family):
    name = "idefics3"

    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        features = image_processor(images=[list(images)], return_row_col_info=True, return_tensors="pt")
        side, tokens = _side(config), []
        for image, rows, cols in zip(images, features["rows"][0], features["cols"][0], strict=True):
            split = {"rows": int(rows), "cols": int(cols), "whole_tokens": side * side}
            if not rows:  # small pictures are not split; they have only the whole picture
                split = {"rows": 1, "cols": 1, "whole_tokens": 0}
            tokens.append(tiled(image.width, image.height, side=side, **split))
        return {key: features[key] for key in ("pixel_values", "pixel_attention_mask")}, tuple(tokens)

    def skip_images(
        self, config: PretrainedConfig, inputs: Mapping[str, torch.Tensor], skipped: Sequence[VisualTokens]
    ) -> dict[str, torch.Tensor]:
        tiles = sum(_tiles(config, image) for image in skipped)
        return {key: inputs[key][:, tiles:] for key in ("pixel_values", "pixel_attention_mask")}

    def join_images(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join pixels (1, tiles, channels, side, side) and their mask (1, tiles, side, side) along the tiles."""
        return {key: torch.cat([part[key] for part in parts], dim=1) for key in parts[0]}

    def written(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, image: VisualTokens) -> str:
        tile = self.image_token(config, tokenizer) * _side(config) ** 2
        whole = f"{AROUND}{WHOLE}{tile}{AROUND}"
        if _tiles(config, image) == 1:
            return whole
        rows, cols = (cells // _side(config) for cells in image.grid.shape)
        lines = (
            "".join(f"{AROUND}<row_{row + 1}_col_{col + 1}>{tile}" for col in range(cols)) + "\n" for row in range(rows)
        )
        return "".join(lines) + "\n" + whole

    def text_model(self, model: PreTrainedModel) -> torch.nn.Module:
        return model.model.text_model


def _side(config: PretrainedConfig) -> int:
    """The number of tokens along a tile's side, after patches are merged."""
    return int(config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor)


def _tiles(config: PretrainedConfig, image: VisualTokens) -> int:
    """The number of tiles of a picture, including the tile of the whole picture."""
    tiles = image.grid.size // _side(config) ** 2
    return tiles if tiles == 1 else tiles + 1
