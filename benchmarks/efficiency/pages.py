"""Requests to a real model. A prompt has several pages and then one question; the map is the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch

from benchmarks.accuracy import MAP_SEED, QUESTION_SEED, profile
from benchmarks.contenders.case import Case
from benchmarks.contenders.checkpoint import Checkpoint, save_prompt
from benchmarks.contenders.measure import KVPRESS
from benchmarks.efficiency.grid import on_device
from benchmarks.report import fast_bfloat16
from headmap.datasets.sources import MADE_UP
from headmap.errors import PromptTooLong, UnsupportedModel
from headmap.evaluation.questions import Question
from headmap.evaluation.runner import question_prompt
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel, load_model
from headmap.models import ModelInfo, find_model
from headmap.settings import Settings

ROOM = 64


@dataclass(frozen=True)
class PageGrid:
    """A model's requests, one at a time. lengths: tokens that prompts come near to, with whole pages of `dataset`.

    kept: the share of a prompt that methods which compress keep. map_pages: pages that the map is made of.
    """

    info: ModelInfo
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192)
    contenders: tuple[str, ...] = ("full", "sparsemm", "snapkv", "dynamic", *KVPRESS)
    dataset: str = "synthetic-long"
    kept: float = 0.1
    map_pages: int = 16
    steps: int = 32
    rounds: int = 3
    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def of(cls, model: str, device: str, short: bool) -> Self:
        """Raises ModelNotFound, or UnsupportedModel for a model of no family."""
        dtype = "bfloat16" if device.startswith("cuda") or fast_bfloat16() else "float32"
        fewer: dict[str, Any] = {"lengths": (1024,), "map_pages": 4, "steps": 16, "rounds": 1} if short else {}
        return cls(find_model(model, Settings(models=(model,))), device=device, dtype=dtype, **fewer)

    @property
    def settings(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "info"}
        return {"name": self.info.name, "model": self.info.revision, "question_seed": QUESTION_SEED, **own}

    def cells(self) -> Iterator[list[Case]]:
        with TemporaryDirectory() as folder:
            for prompt_tokens, checkpoint in self._saved(Path(folder)):
                budget = round(self.kept * prompt_tokens)
                yield [
                    on_device(
                        Case(
                            contender, checkpoint, prompt_tokens, budget=budget, steps=self.steps, device=self.device,
                            dtype=self.dtype,
                        )
                    )
                    for contender in self.contenders
                ]  # fmt: skip

    def _saved(self, folder: Path) -> list[tuple[int, Checkpoint]]:
        """Save the prompts, and return the tokens and the file of each. The model is freed before a case begins."""
        loaded = load_model(self.info)
        matrix = torch.from_numpy(profile(loaded, MAP_SEED, self.map_pages).matrix.copy())
        saved = []
        for prompt in page_prompts(loaded, self.lengths, self.dataset):
            path = folder / f"{prompt.prompt_tokens}.safetensors"
            save_prompt(path, dict(prompt.inputs), matrix)
            saved.append((prompt.prompt_tokens, Checkpoint(self.info.name, str(self.info.folder), str(path))))
        return saved


def page_prompts(loaded: LoadedModel, lengths: Sequence[int], dataset: str) -> list[PreparedPrompt]:
    """Return a prompt near each length, without repeats. Each leaves ROOM positions for the steps.

    A prompt has the first pages of the dataset, and asks for a value on the first page. Raises PromptTooLong if not
    even one page fits. Raises UnsupportedModel if positions do not count tokens, or if picture tokens see later ones.
    """
    prompts: list[PreparedPrompt] = []
    for number in count(1):
        prompt = _asked(loaded, dataset, number)
        if prompt.prompt_tokens + ROOM > loaded.info.max_positions:
            break
        prompts.append(prompt)
        if prompt.prompt_tokens >= max(lengths):
            break
    if not prompts:
        raise PromptTooLong(
            f"model: {loaded.info.name!r} has {loaded.info.max_positions} positions, which no page of {dataset!r} "
            "leaves room in",
            param="model",
        )
    sizes = {prompt.prompt_tokens: prompt for prompt in prompts}
    nearest = dict.fromkeys(min(sizes, key=lambda size: abs(size - length)) for length in lengths)
    return [sizes[size] for size in nearest]


def _asked(loaded: LoadedModel, dataset: str, pages: int) -> PreparedPrompt:
    """The first pages, and a question about the first of them."""
    drawn = [MADE_UP[dataset](QUESTION_SEED, index) for index in range(pages)]
    question = Question("", drawn[0].questions[0].question, tuple(page.image for page in drawn), ())
    prompt = question_prompt(loaded, question)
    counted = torch.arange(prompt.prompt_tokens)[None]
    if prompt.spans or not torch.equal(prompt.position_ids, counted):
        raise UnsupportedModel(
            f"model: {loaded.info.name!r} cannot be measured: its positions or its attention are other than a text's",
            param="model",
        )
    return prompt
