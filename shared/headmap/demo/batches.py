"""Training batches: pages drawn on demand, with labels for every cell and several turns about each picture.

A picture is encoded once, and many turns ask about it. Each turn sees the picture, the tokens before the picture, and
itself. Its positions start directly after the picture. So for each turn the sequence looks like a single-turn prompt in
real use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headmap.demo import assets, phrases
from headmap.demo.recipe import Stage
from headmap.scoring.pages import CELL, PAGE_CHARACTERS, TRANSCRIBE_PROMPT, Page, draw_page

BLANK, NEWLINE, PAGE_END, PAGE_START = range(4)
CELL_CLASSES = 4 + len(PAGE_CHARACTERS)
IGNORE = -100
LOOKUPS = 6
"""Lookups asked about each training page."""
SYSTEM_SHARE = 0.25
"""Share of the training pages with a system turn in front."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step. N: cells of all pages, B: pages, P: the longest picture prefix, S: the longest sequence."""

    patches: Tensor
    """[N, 3 * CELL * CELL] pixels, -1 to 1: one frame of what the image processor gives."""
    grid: Tensor
    """[B, 3] frames, rows and columns of each picture."""
    cells: Tensor
    """[N, 1 + context] class of each cell and of the characters before it, or IGNORE if there is none."""
    input_ids: Tensor
    """[B, S]; the first P places hold the picture and the tokens before it, padded on the right."""
    positions: Tensor
    """[3, B, S] M-RoPE positions."""
    image_at: Tensor
    """[N] places of the visual tokens in the flattened [B * S] sequence."""
    is_image: Tensor
    """[B, P] 1 at the visual tokens, else 0; float32."""
    prefix: int
    """P."""
    mask: Tensor
    """[B, 1, S - P, S] added to attention scores: 0 where a turn's token may look, else -inf."""
    labels: Tensor
    """[B, S] the next token if it belongs to an answer, else IGNORE."""
    is_lookup: Tensor
    """[B, S] true if the label belongs to a lookup and not to the transcription."""

    def to(self, device: torch.device) -> Batch:
        """Move the batch to another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class BatchMaker:
    """Makes a batch from only the seed, the step and the share, so that a run can resume at any step."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, context: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._context = context
        self._image_id = tokenizer.convert_tokens_to_ids(assets.IMAGE)

    def batch(self, stage: Stage, step: int, share: int = 0) -> Batch:
        """Draw one share of a step's pages. Their stream is tagged `train`, so `make_page` never draws them."""
        streams = [f"train/{self._seed}/{step}/{share}/{i}" for i in range(stage.pages)]
        pages = [draw_page(one, stage.min_lines, stage.max_lines, 1, stage.max_cells) for one in streams]
        return self.from_pages(pages, [random.Random(one) for one in streams])

    def from_pages(self, pages: list[Page], rngs: Sequence[random.Random | None] | None = None) -> Batch:
        """Turn pages into tensors. Each page's generator phrases its turns; without one the prompts are plain."""
        rngs = rngs or [None] * len(pages)
        sizes = [(page.image.height // CELL, page.image.width // CELL) for page in pages]
        turns = [
            [self._turn(prompt, answer) for prompt, answer in _turns(page, rng)]
            for page, rng in zip(pages, rngs, strict=True)
        ]
        fronts = [self._front(rng) for rng in rngs]
        prefix = max(len(front) + rows * cols for front, (rows, cols) in zip(fronts, sizes, strict=True))
        total = prefix + max(sum(len(ids) for ids, _ in page_turns) for page_turns in turns)

        count = len(pages)
        input_ids = np.full((count, total), self._tokenizer.pad_token_id, dtype=np.int64)
        positions = np.zeros((3, count, total), dtype=np.int64)
        labels = np.full((count, total), IGNORE, dtype=np.int64)
        is_lookup = np.zeros((count, total), dtype=bool)
        owner = np.full((count, total), -2, dtype=np.int64)  # turn of each token; -1: picture, -2: padding
        image_at = []
        is_image = np.zeros((count, prefix), dtype=np.float32)
        for b, (front, (rows, cols), page_turns) in enumerate(zip(fronts, sizes, turns, strict=True)):
            start = len(front)
            end = start + rows * cols
            is_image[b, start:end] = 1
            input_ids[b, :start] = front
            input_ids[b, start:end] = self._image_id
            owner[b, :end] = -1
            positions[:, b, :start] = np.arange(start)
            grid = np.indices((rows, cols)).reshape(2, -1)
            positions[0, b, start:end] = start
            positions[1:, b, start:end] = start + grid
            image_at.append(b * total + np.arange(start, end))
            at = prefix
            for number, (ids, answer_from) in enumerate(page_turns):
                stop = at + len(ids)
                input_ids[b, at:stop] = ids
                positions[:, b, at:stop] = start + max(rows, cols) + np.arange(len(ids))
                labels[b, at + answer_from - 1 : stop - 1] = ids[answer_from:]
                is_lookup[b, at:stop] = number > 0
                owner[b, at:stop] = number
                at = stop
        places = np.arange(total)
        own = owner[:, prefix:, None] == owner[:, None, :]
        mask = (own & (places[None, :] <= places[prefix:, None])) | (owner[:, None, :] == -1)
        cells = np.concatenate([cell_labels(page, self._context) for page in pages])
        patches = np.concatenate([_patches(page) for page in pages])
        return Batch(
            patches=torch.from_numpy(patches),
            grid=torch.tensor([[1, rows, cols] for rows, cols in sizes]),
            cells=torch.from_numpy(cells),
            input_ids=torch.from_numpy(input_ids),
            positions=torch.from_numpy(positions),
            image_at=torch.from_numpy(np.concatenate(image_at)),
            is_image=torch.from_numpy(is_image),
            prefix=prefix,
            mask=torch.from_numpy(np.where(mask, np.float32(0), np.float32("-inf")))[:, None],
            labels=torch.from_numpy(labels),
            is_lookup=torch.from_numpy(is_lookup),
        )

    def _front(self, rng: random.Random | None) -> list[int]:
        """Token ids before the picture."""
        with_system = rng is not None and rng.random() < SYSTEM_SHARE
        system = f"{assets.START}system\n{phrases.system(rng)}{assets.END}\n" if rng and with_system else ""
        return self._encode(f"{system}{assets.START}user\n{assets.VISION_START}")

    def _turn(self, prompt: str, answer: str) -> tuple[list[int], int]:
        """Token ids of a turn, starting at the end of the picture, and the index where the answer starts."""
        asked = self._encode(f"{assets.VISION_END}{prompt}{assets.END}\n{assets.START}assistant\n")
        return asked + self._encode(f"{answer}{assets.END}"), len(asked)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])


def cell_labels(page: Page, context: int) -> np.ndarray:
    """Each cell's character and the characters before it in reading order, `[cells, 1 + context]`, int64.

    The cell after a line represents the newline. The marked cell after the last line represents the page's end. So the
    model finds the next line and the page's end like the next character: by the preceding characters.
    """
    rows, cols = page.image.height // CELL, page.image.width // CELL
    labels = np.full((rows * cols, 1 + context), IGNORE, dtype=np.int64)
    labels[:, 0] = BLANK
    before = [PAGE_START] * (context - 1) + [NEWLINE]
    for number, word in enumerate(page.words):
        first = (word.box[1] // CELL) * cols + word.box[0] // CELL
        after = PAGE_END if number == len(page.words) - 1 else NEWLINE
        classes = [4 + PAGE_CHARACTERS.index(c) for c in word.text] + [after]
        for offset, own in enumerate(classes):
            labels[first + offset, 0] = own
            labels[first + offset, 1:] = before[: -context - 1 : -1]
            before.append(own)
    return labels


def _turns(page: Page, rng: random.Random | None) -> list[tuple[str, str]]:
    """Prompts and answers about a page: the transcription, its questions and more questions of the same kind."""
    values = {key: value for key, _, value in (word.text.partition(":") for word in page.words)}
    all_keys = list(values)
    asked = [key for key in all_keys if any(q.question.endswith(f" {key}?") for q in page.questions)]
    keys = list(dict.fromkeys([*asked, *all_keys[::2], *all_keys[1::2]]))[: max(LOOKUPS, len(asked))]
    if rng is None:
        plain = [(f"{phrases.LOOKUP_PROMPT} {key}?", values[key]) for key in keys]
        return [(TRANSCRIBE_PROMPT, page.text), *plain]
    return [
        (phrases.transcription(rng), page.text),
        *((phrases.lookup(rng, key), values[key]) for key in keys),
    ]


def _patches(page: Page) -> np.ndarray:
    """Pixels, [cells, 3 * CELL * CELL], with the scaling of the image processor."""
    rows, cols = page.image.height // CELL, page.image.width // CELL
    pixels = np.asarray(page.image).reshape(rows, CELL, cols, CELL, 3).transpose(0, 2, 4, 1, 3)
    return pixels.reshape(rows * cols, -1).astype(np.float32) / 127.5 - 1.0
