"""Gemma 3: every picture is stretched to one square of tokens, which see each other in both directions.

Most of its layers use a sliding window and hold exactly this window. Budgets apply to the other layers. The processor's
pan and scan is not used; it is off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from headmap.families.base import Family, VisualTokens
from headmap.families.tiles import row_major


class Gemma3(Family):
    name = "gemma3"
    sees_both_ways = True

    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        features = image_processor(images=list(images), do_pan_and_scan=False, return_tensors="pt")
        side = int(config.mm_tokens_per_image**0.5)
        tokens = tuple(row_major(image.width, image.height, rows=side, cols=side) for image in images)
        return {"pixel_values": features["pixel_values"]}, tokens

    def place(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
        return str(tokenizer.convert_ids_to_tokens(config.boi_token_id))

    def written(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, image: VisualTokens) -> str:
        end = tokenizer.convert_ids_to_tokens(config.eoi_token_id)
        inside = super().written(config, tokenizer, image)
        return f"\n\n{self.place(config, tokenizer)}{inside}{end}\n\n"
