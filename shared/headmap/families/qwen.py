"""Shared by the Qwen-VL families: pictures at their own resolution, one token per merged patch, M-RoPE positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from headmap.families.base import Family, VisualTokens
from headmap.families.tiles import row_major

if TYPE_CHECKING:
    from PIL import Image


class QwenVL(Family):
    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        resized = [_resized(image_processor, image) for image in images]
        features = image_processor(images=resized, return_tensors="pt")
        merge = int(config.vision_config.spatial_merge_size)
        tokens = []
        for image, (_, height, width) in zip(images, features["image_grid_thw"].tolist(), strict=True):
            size = {"rows": height // merge, "cols": width // merge}
            tokens.append(row_major(image.width, image.height, **size))
        return {key: features[key] for key in ("pixel_values", "image_grid_thw")}, tuple(tokens)

    def skip_images(
        self, config: PretrainedConfig, inputs: Mapping[str, torch.Tensor], skipped: Sequence[VisualTokens]
    ) -> dict[str, torch.Tensor]:
        grids = inputs["image_grid_thw"]
        patches = int(grids[: len(skipped)].prod(1).sum())
        return {"pixel_values": inputs["pixel_values"][patches:], "image_grid_thw": grids[len(skipped) :]}

    def positions(
        self, model: PreTrainedModel, input_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        is_image = (input_ids == self.image_token_id(model.config)).to(torch.int32)
        positions, deltas = model.model.get_rope_index(
            input_ids, mm_token_type_ids=is_image, image_grid_thw=inputs.get("image_grid_thw")
        )
        return positions, input_ids.shape[1] + int(deltas[0])

    def decode_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Position ids, (3, S, 1). Text advances on all three axes together."""
        return positions[None, :, None].expand(3, -1, -1)


def _resized(image_processor: Any, image: Image.Image) -> Image.Image:
    """Resize a picture like its processor, with the same filter. The processor then does not resize it again.

    The processor would first make two copies of the whole picture and hold Python's global lock during each copy.
    """
    # Imported here because it needs pillow, which a prompt without pictures does not need.
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    if image_processor.backend != "pil" or not image_processor.do_resize:
        return image
    size, factor = image_processor.size, image_processor.patch_size * image_processor.merge_size
    height, width = smart_resize(image.height, image.width, factor, size["shortest_edge"], size["longest_edge"])
    return image.resize((width, height), image_processor.resample)
