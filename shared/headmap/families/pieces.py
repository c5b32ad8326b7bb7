"""Bound activations for long prompts and many pictures: modules that treat each token alone run in pieces.

For 128K tokens in bfloat16, an MLP with 18,944 hidden units holds three tensors of 5 GB each, and a norm holds several
float32 copies of its input. Wrappers replace modules of the loaded model; no library code is patched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

MAX_TOKENS = 4096
"""At Qwen2-VL-7B's shape the MLP of a piece holds 0.15 GB three times over, about what the states of 20K tokens take;
products of that many rows still use a processor in full."""


class InPieces(nn.Module):
    """Run `inner` over at most `tokens` tokens at a time. `inner` must treat each token independently.

    It takes (..., d) and returns (..., e), like `inner`. An input of up to `tokens` tokens goes to `inner` unchanged.
    """

    def __init__(self, inner: nn.Module, tokens: int) -> None:
        super().__init__()
        self.inner, self.tokens = inner, tokens

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.numel() <= self.tokens * hidden.shape[-1]:
            return self.inner(hidden)
        rows = hidden.flatten(0, -2)
        first = self.inner(rows[: self.tokens])
        output = first.new_empty((len(rows), first.shape[-1]))
        output[: self.tokens] = first
        for start in range(self.tokens, len(rows), self.tokens):
            piece = slice(start, start + self.tokens)
            output[piece] = self.inner(rows[piece])
        return output.view(*hidden.shape[:-1], -1)


class PictureByPicture(nn.Module):
    """Run Pixtral's vision tower on one picture at a time.

    Without this wrapper the tower puts all pictures in one row and separates them by a mask of patches x patches.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.patch_size = inner, inner.patch_size

    def forward(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, **kwargs: Any) -> Any:
        """`pixel_values`: (images, channels, height, width), padded; `image_sizes`: (images, 2).

        Returns the states of all patches, (1, n, d), and of each layer if requested.
        """
        sizes = zip(pixel_values, image_sizes, image_sizes.tolist(), strict=True)
        parts = [
            self.inner(picture[None, :, :height, :width], image_sizes=size[None], **kwargs)
            for picture, size, (height, width) in sizes
        ]
        output = parts[0]
        output.last_hidden_state = torch.cat([part.last_hidden_state for part in parts], dim=1)
        if output.hidden_states is not None:
            by_layer = zip(*(part.hidden_states for part in parts), strict=True)
            # transformers 5.24 gives None for layers not requested
            output.hidden_states = tuple(None if states[0] is None else torch.cat(states, dim=1) for states in by_layer)
        return output


def bound_activations(model: nn.Module, text_model: nn.Module, tokens: int = MAX_TOKENS) -> None:
    """Run the MLPs and norms of `model`'s layers over at most `tokens` tokens at a time. Changes `model` in place.

    Modules that may not treat tokens independently stay unchanged: attention and MLPs with experts.
    """
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    for owner in {text_model, *(layer for layers in lists for layer in layers)}:
        for name, part in list(owner.named_children()):
            if isinstance(part, InPieces):
                continue
            if _is_norm(part) or (name in ("mlp", "feed_forward") and _is_plain(part)):
                setattr(owner, name, InPieces(part, tokens))


def _is_norm(part: nn.Module) -> bool:
    return type(part).__name__.endswith(("LayerNorm", "RMSNorm"))


def _is_plain(mlp: nn.Module) -> bool:
    """Whether all weights belong to linear layers. Then all other operations are elementwise."""
    return all(isinstance(part, nn.Linear) or not list(part.parameters(recurse=False)) for part in mlp.modules())
