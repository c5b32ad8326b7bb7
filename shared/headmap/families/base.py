"""The differences between model families: prompt, positions, and the location of visual tokens on the picture.

A new family is one module with one subclass of `Family`, named in `headmap.families.registry.FAMILIES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from headmap.families.pieces import bound_activations

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Axis:
    """Maps pixels of a picture's width (height) to columns (rows) of its token grid: cell = pixel x scale + offset."""

    cells: int
    scale: float
    offset: float = 0.0

    def span(self, start: float, end: float) -> slice:
        """The range of cells from the cell with pixel `start` to the cell with pixel `end`, both included."""
        first = min(max(int(np.floor(start * self.scale + self.offset)), 0), self.cells - 1)
        last = min(max(int(np.floor(end * self.scale + self.offset)), first), self.cells - 1)
        return slice(first, last + 1)

    def edges(self, length: int) -> tuple[float, ...]:
        """The `cells + 1` borders of the cells, clipped to a picture that is `length` pixels wide (or high)."""
        return tuple(min(max(border, 0.0), float(length)) for border in self.borders)

    @property
    def borders(self) -> tuple[float, ...]:
        """The `cells + 1` borders of the cells, not clipped to the picture."""
        return tuple(float(border) for border in (np.arange(self.cells + 1) - self.offset) / self.scale)


@dataclass(frozen=True)
class VisualTokens:
    """The tokens of one picture, and the location of each token on it.

    `count`: the number of tokens. `grid`: (rows, cols) int64, the index of the token that shows each cell. `x`, `y`:
    map pixels to columns and rows.

    A family counts only visual tokens. A PreparedPrompt counts all tokens from the picture's first token to its last,
    including row ends and tile names.
    """

    count: int
    grid: npt.NDArray[np.int64]
    x: Axis
    y: Axis

    def placed(self, places: npt.NDArray[np.int64]) -> VisualTokens:
        """Convert to the numbering in a prompt, where the visual tokens are at `places`, (count,) int64."""
        return replace(self, count=int(places[-1] - places[0]) + 1, grid=(places - places[0])[self.grid])

    def region(self, box: Sequence[float]) -> npt.NDArray[np.int64]:
        """Return tokens whose cells overlap `box` = x0, y0, x1, y1 in page pixels, counted from the picture's first."""
        x0, y0, x1, y1 = box
        return self.grid[self.y.span(y0, y1), self.x.span(x0, x1)].ravel()

    def cells_of(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The cell that each token shows, as row x columns + column, or -1 if it shows none.

        `tokens`: int64 of any shape, counted from the picture's first. Returns the same shape, int32.
        """
        cells = np.full(self.count + 1, -1, dtype=np.int32)  # the last entry is for all tokens outside the picture
        cells[self.grid] = np.arange(self.grid.size, dtype=np.int32).reshape(self.grid.shape)
        cells[-1] = -1
        return cells[np.where((tokens >= 0) & (tokens < self.count), tokens, self.count)]


@dataclass(frozen=True)
class PreparedPrompt:
    """The model's input for one prompt, a sequence of n tokens.

    `inputs`: input_ids (1, n) and the pictures' tensors. `position_ids`: (1, n) or, with M-RoPE, (3, 1, n).
    `next_position`: the position of the first generated token. `images`: the tokens of each picture. `image_starts`:
    the index in the prompt of each picture's first token. `spans`: (start, end) of pictures whose tokens see each other
    in both directions.
    """

    inputs: Mapping[str, torch.Tensor]
    position_ids: torch.Tensor
    next_position: int
    images: tuple[VisualTokens, ...]
    image_starts: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return int(self.inputs["input_ids"].shape[1])

    @property
    def image_tokens(self) -> int:
        return sum(image.count for image in self.images)


@dataclass(frozen=True)
class PackedPrompts:
    """Several prompts, one after the other in one row of n tokens, for one forward pass.

    `inputs`: input_ids (1, n) and the tensors of all pictures, prompt after prompt. `position_ids`: (1, n) or, with
    M-RoPE, (3, 1, n); each prompt has its own. `bounds`: (start, end) of each prompt in the row. This class does not
    hide the prompts from each other; the cache's attention does.
    """

    prompts: tuple[PreparedPrompt, ...]
    inputs: Mapping[str, torch.Tensor]
    position_ids: torch.Tensor

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        ends = tuple(accumulate(prompt.prompt_tokens for prompt in self.prompts))
        return tuple(zip((0, *ends), ends, strict=False))

    @property
    def last_tokens(self) -> tuple[int, ...]:
        """The index in the row of each prompt's last token; its hidden state predicts the first new token."""
        return tuple(end - 1 for _, end in self.bounds)


class Family(ABC):
    """The behaviour of one model family. It has no state, so one instance serves every model of the family.

    A subclass sets its name, overrides `image_inputs`, and overrides any other method whose default does not fit.
    """

    name: ClassVar[str]
    sees_both_ways: ClassVar[bool] = False
    """Whether a picture's tokens see each other in both directions. All other tokens see only earlier tokens."""

    def image_token_id(self, config: PretrainedConfig) -> int:
        """The token whose embedding a picture's features replace."""
        return int(config.image_token_id)

    @abstractmethod
    def image_inputs(
        self, config: PretrainedConfig, image_processor: Any, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], tuple[VisualTokens, ...]]:
        """Preprocess pictures (RGB). Returns the model's tensors by name, and each picture's tokens."""

    def place(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text that the chat template writes for a picture. The default is the picture token."""
        return self.image_token(config, tokenizer)

    def written(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, image: VisualTokens) -> str:
        """The text that replaces `place` in the prompt. It has exactly `image.count` picture tokens."""
        return self.image_token(config, tokenizer) * image.count

    def image_token(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text of the picture token."""
        return str(tokenizer.convert_ids_to_tokens(self.image_token_id(config)))

    def skip_images(
        self, config: PretrainedConfig, inputs: Mapping[str, torch.Tensor], skipped: Sequence[VisualTokens]
    ) -> dict[str, torch.Tensor]:
        """Remove the first pictures, `skipped`, from the tensors of `image_inputs`. At least one picture is left.

        The default is for tensors whose first dimension counts pictures.
        """
        del config
        return {key: value[len(skipped) :] for key, value in _without_ids(inputs).items()}

    def packs(self, prompt: PreparedPrompt) -> bool:
        """Whether `prompt` can share a row with other prompts. By default every prompt can."""
        del prompt
        return True

    def pack(self, prompts: Sequence[PreparedPrompt]) -> PackedPrompts:
        """Put `prompts` one after the other in one row. Raises ValueError for several unless all pass `packs`."""
        if len(prompts) > 1 and not all(map(self.packs, prompts)):
            raise ValueError("prompts: one of them cannot share a row with others")
        pictures = [rest for prompt in prompts if (rest := _without_ids(prompt.inputs))]
        joined = self.join_images(pictures) if len(pictures) > 1 else next(iter(pictures), {})
        return PackedPrompts(
            prompts=tuple(prompts),
            inputs={"input_ids": torch.cat([prompt.inputs["input_ids"] for prompt in prompts], dim=1), **joined},
            position_ids=torch.cat([prompt.position_ids for prompt in prompts], dim=-1),
        )

    def join_images(self, parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join the `image_inputs` tensors of several prompts. Every prompt in `parts` has pictures.

        The default joins along the first dimension (pictures, tiles or patches): (p, ...) and (q, ...) become (p + q,
        ...).
        """
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def positions(
        self, model: PreTrainedModel, input_ids: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, int]:
        """Return the prompt's position ids, (1, n) or, with M-RoPE, (3, 1, n), and the position of the next token.

        `input_ids`: (1, n); `inputs`: the tensors of its pictures. The default counts tokens.
        """
        del model, inputs
        n = input_ids.shape[1]
        return torch.arange(n)[None], n

    def decode_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Position ids for one token of each sequence. `positions`: (S,) int64; the default returns (S, 1)."""
        return positions[:, None]

    def text_model(self, model: PreTrainedModel) -> torch.nn.Module:
        """The decoder that takes input_ids or embeddings, positions and a cache."""
        return model.model.language_model

    def bound_activations(self, model: PreTrainedModel) -> None:
        """Make long prompts and many pictures run in pieces. Changes `model` in place; call it once per model."""
        bound_activations(model, self.text_model(model))


def _without_ids(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in inputs.items() if key != "input_ids"}
