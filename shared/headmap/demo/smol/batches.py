"""Training batches: pages drawn on demand, the character of every cell, and several turns about each picture.

As in `headmap.demo.batches`, a picture is encoded once, each turn sees the picture and itself, and its positions start
after the picture. So a turn's sequence looks like a single-turn prompt in real use. In some pages the question stands
before the picture; these have one turn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from headmap.datasets.made_up.plain import draw_form, draw_lookups, draw_note, draw_receipt
from headmap.demo import phrases
from headmap.demo.assets import END, START
from headmap.demo.smol.assets import BREAK, IMAGE, IMAGE_END, NEWLINE
from headmap.demo.smol.recipe import Stage
from headmap.scoring.pages import ATLAS_CHARACTERS, CELL, Page, draw_page

CELL_CHARACTERS = f" {NEWLINE}{ATLAS_CHARACTERS}"
"""What a cell can hold: nothing, the mark of the page's end, or a character."""
IGNORE = -100
TEXT_FIRST_SHARE = 0.2
SYSTEM_SHARE = 0.2
TRANSCRIPTION_SHARE = 0.5
LOOKUPS = 5


@dataclass(frozen=True)
class Batch:
    """Tensors of one step. N: cells of all pages, B: pages, S: the longest sequence."""

    pixel_values: Tensor
    """[B, 3, height, width], -1 to 1, padded to the largest picture."""
    image_sizes: Tensor
    """[B, 2] height and width in pixels."""
    cells: Tensor
    """[N] index of each cell's character in CELL_CHARACTERS, page after page."""
    input_ids: Tensor
    """[B, S]."""
    positions: Tensor
    """[B, S]."""
    mask: Tensor
    """[B, 1, S, S] added to attention scores: 0 where a token may look, else -inf."""
    labels: Tensor
    """[B, S] the next token if it belongs to an answer, else IGNORE."""
    is_transcription: Tensor
    """[B, S] true if the label belongs to the transcription of a whole page."""


@dataclass(frozen=True)
class _Turn:
    ids: list[int]
    answer_from: int
    is_transcription: bool


class BatchMaker:
    """Makes a batch from only the seed and the step, so that a run can resume at any step."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed

    def batch(self, stage: Stage, step: int) -> Batch:
        """Draw a step's pages. Their streams are tagged `smol`, so no evaluation ever draws them."""
        pages, rngs = [], []
        for number in range(stage.pages):
            stream = f"smol/{self._seed}/{step}/{number}"
            rngs.append(random.Random(stream))
            pages.append(_draw(rngs[-1], stage, stream))
        return self.from_pages(pages, rngs)

    def from_pages(self, pages: Sequence[Page], rngs: Sequence[random.Random]) -> Batch:
        """Turn pages into tensors. Each page's generator chooses its turns and phrases them."""
        sequences = [self._sequence(page, rng) for page, rng in zip(pages, rngs, strict=True)]
        total = max(len(front) + sum(len(turn.ids) for turn in turns) for front, turns in sequences)
        shape = (len(pages), total)
        input_ids = np.full(shape, self._tokenizer.pad_token_id, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORE, dtype=np.int64)
        is_transcription = np.zeros(shape, dtype=bool)
        owner = np.full(shape, -2, dtype=np.int64)  # turn of each token; -1: picture and what is before it, -2: padding
        for b, (front, turns) in enumerate(sequences):
            at = len(front)
            input_ids[b, :at], positions[b, :at], owner[b, :at] = front, np.arange(at), -1
            for number, turn in enumerate(turns):
                stop = at + len(turn.ids)
                input_ids[b, at:stop] = turn.ids
                positions[b, at:stop] = len(front) + np.arange(len(turn.ids))
                labels[b, at + turn.answer_from - 1 : stop - 1] = turn.ids[turn.answer_from :]
                is_transcription[b, at:stop] = turn.is_transcription
                owner[b, at:stop] = number
                at = stop
        places = np.arange(total)
        sees = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == -1)
        sees &= places[None, :] <= places[:, None]
        pictures = [_pixels(page) for page in pages]
        height, width = (max(one.shape[axis] for one in pictures) for axis in (1, 2))
        padded = [np.pad(p, ((0, 0), (0, height - p.shape[1]), (0, width - p.shape[2]))) for p in pictures]
        return Batch(
            pixel_values=torch.from_numpy(np.stack(padded)),
            image_sizes=torch.tensor([picture.shape[1:] for picture in pictures]),
            cells=torch.from_numpy(np.concatenate([cell_characters(page) for page in pages])),
            input_ids=torch.from_numpy(input_ids),
            positions=torch.from_numpy(positions),
            mask=torch.from_numpy(np.where(sees, np.float32(0), np.float32("-inf")))[:, None],
            labels=torch.from_numpy(labels),
            is_transcription=torch.from_numpy(is_transcription),
        )

    def _sequence(self, page: Page, rng: random.Random) -> tuple[list[int], list[_Turn]]:
        """Return the token ids up to the end of the picture, and the turns that follow."""
        asked = _questions(page, rng)
        system = f"{START}system\n{phrases.system(rng)}{END}\n" if rng.random() < SYSTEM_SHARE else ""
        rows, cols = page.image.height // CELL, page.image.width // CELL
        picture = BREAK.join([IMAGE * cols] * rows) + IMAGE_END
        before = ""
        if rng.random() < TEXT_FIRST_SHARE:
            before, answer, whole = asked[rng.randrange(len(asked))]
            asked = [("", answer, whole)]
        return self._encode(f"{system}{START}user\n{before}{picture}"), [self._turn(*one) for one in asked]

    def _turn(self, prompt: str, answer: str, is_transcription: bool) -> _Turn:
        asked = self._encode(f"{prompt}{END}\n{START}assistant\n")
        return _Turn(asked + self._encode(f"{answer}{END}"), len(asked), is_transcription)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def cell_characters(page: Page) -> npt.NDArray[np.int64]:
    """Return the character of each cell as an index of CELL_CHARACTERS: (cells,) int64, row by row."""
    rows, cols = page.image.height // CELL, page.image.width // CELL
    cells = np.zeros((rows, cols), dtype=np.int64)
    for word in page.words:
        row, col = word.box[1] // CELL, word.box[0] // CELL
        cells[row, col : col + len(word.text)] = [CELL_CHARACTERS.index(character) for character in word.text]
        end = row, col + len(word.text)
    cells[end] = CELL_CHARACTERS.index(NEWLINE)
    return cells.reshape(-1)


def _draw(rng: random.Random, stage: Stage, stream: str) -> Page:
    """A page of a kind drawn by the stage's shares."""
    size = (stage.min_cells, stage.max_cells)
    large = stage.min_cells >= 800
    kind = rng.choices(("lookups", "form", "receipt", "note"), (0.45, 0.22, 0.22, 0.11))[0]
    if kind == "form":
        return draw_form(stream, size)
    if kind == "receipt":
        return draw_receipt(stream, size)
    if kind == "note":
        return draw_note(stream, size)
    if large:
        return draw_lookups(stream, (16, 36), size)
    return draw_page(stream, 6, 14, min(stage.min_cells, 200), stage.max_cells)  # six lines cannot fill 300 cells


def _questions(page: Page, rng: random.Random) -> list[tuple[str, str, bool]]:
    """Prompts, answers, and whether that is the whole text."""
    entries = [word.text.partition(":") for word in page.words]
    if all(key and mark and value for key, mark, value in entries) and len(page.questions) >= LOOKUPS - 1:
        chosen = rng.sample(entries, min(LOOKUPS, len(entries)))
        asked = [(phrases.lookup(rng, key), value, False) for key, _, value in chosen]
    else:
        asked = [(phrases.dressed(rng, one.question), one.answer, False) for one in page.questions]
    if rng.random() < TRANSCRIPTION_SHARE:
        asked.append((phrases.transcription(rng), page.text, True))
    return asked


def _pixels(page: Page) -> npt.NDArray[np.float32]:
    """Pixels, [3, height, width], with the scaling of the image processor."""
    return np.asarray(page.image).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1.0
