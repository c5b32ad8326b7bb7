"""What a model makes of a picture before its tokens see each other: the real classes, attention in vision left out."""

from __future__ import annotations

import copy
import re

import numpy as np
import torch
from PIL import Image

from headmap.families.base import PreparedPrompt, VisualTokens
from headmap.families.loading import LoadedModel

MIXING = re.compile(r"(attn\.proj|attn\.out_proj|attention\.o_proj|attention\.projection_layer)\.(weight|bias)$")


def without_mixing(loaded: LoadedModel) -> torch.nn.Module:
    """The model with the output of every vision attention at zero: a patch is then made of its own pixels alone."""
    model = copy.deepcopy(loaded.model)
    text = set(loaded.family.text_model(model).parameters())
    mixing = [
        parameter for name, parameter in model.named_parameters() if MIXING.search(name) and parameter not in text
    ]
    assert mixing
    for parameter in mixing:
        torch.nn.init.zeros_(parameter)
    return model.model


@torch.no_grad()
def features(model: torch.nn.Module, loaded: LoadedModel, pictures: list[Image.Image]) -> np.ndarray:
    """(picture tokens, hidden size): what takes the place of the picture tokens' embeddings, picture after picture."""
    inputs, _ = loaded.family.image_inputs(loaded.model.config, loaded.image_processor, pictures)
    found = model.get_image_features(**inputs).pooler_output
    found = list(found) if not isinstance(found, torch.Tensor) else [found]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in found]).numpy()


def visual_tokens(loaded: LoadedModel, pictures: list[Image.Image]) -> tuple[VisualTokens, ...]:
    """Each picture's tokens, as its family counts them."""
    return loaded.family.image_inputs(loaded.model.config, loaded.image_processor, pictures)[1]


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 120, (height, width, 3), dtype=np.uint8)


def ask(loaded: LoadedModel, pictures: list[Image.Image], text: str = "What is it?") -> PreparedPrompt:
    content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]
    return loaded.prepare([{"role": "user", "content": content}], pictures)
