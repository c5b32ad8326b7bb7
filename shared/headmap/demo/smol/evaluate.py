"""Measure how well the built model reads pages that were not in its training, with transformers' own decoding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from transformers import AutoModelForImageTextToText

from headmap.datasets.sources import MADE_UP
from headmap.evaluation.intervals import wilson
from headmap.families.loading import LoadedModel, load_model
from headmap.models import read_model
from headmap.scoring.pages import Page, Question

KINDS = ("synthetic", "synthetic-long", "plain-forms", "plain-receipts", "plain-notes")
MAX_NEW_TOKENS = 32


def measure(folder: Path, pages: int, seed: int) -> dict[str, Any]:
    """Share of answers that are exactly right, by kind of page and by what comes first in the prompt.

    Each page is asked one of its questions after the picture, and another one before it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_model(read_model(folder.name, folder), device=device, dtype="float32")
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.to(device).eval()
    figures: dict[str, Any] = {"seed": seed, "pages": pages}
    for kind in KINDS:
        right: dict[str, list[bool]] = {"picture_first": [], "text_first": []}
        tokens = []
        for page, question, text_first in track(list(_asked(kind, pages, seed)), description=kind):
            answer, seen = _ask(model, loaded, page, question, text_first=text_first)
            right["text_first" if text_first else "picture_first"].append(answer == question.answer)
            tokens.append(seen)
        figures[kind] = {
            **{order: _share(answers) for order, answers in right.items()},
            "visual_tokens": round(sum(tokens) / len(tokens)),
        }
    return figures


def _asked(kind: str, pages: int, seed: int) -> Iterator[tuple[Page, Question, bool]]:
    for index in range(pages):
        page = MADE_UP[kind](seed, index)
        count = len(page.questions)
        yield page, page.questions[index % count], False
        yield page, page.questions[(index + 1) % count], True


@torch.inference_mode()
def _ask(model: Any, loaded: LoadedModel, page: Page, question: Question, *, text_first: bool) -> tuple[str, int]:
    """The greedy answer, and the number of the picture's tokens."""
    parts = [{"type": "image"}, {"type": "text", "text": question.question}]
    prompt = loaded.prepare([{"role": "user", "content": parts[::-1] if text_first else parts}], [page.image])
    inputs = {name: value.to(model.device) for name, value in prompt.inputs.items()}
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    text = loaded.tokenizer.decode(output[0, prompt.prompt_tokens :], skip_special_tokens=True)
    return str(text), prompt.image_tokens


def _share(right: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(right), len(right))
    value = sum(right) / len(right)
    return {"value": round(value, 4), "interval": [round(low, 4), round(high, 4)], "n": len(right)}
