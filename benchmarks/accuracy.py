"""Accuracy against memory on the bundled model: every method at equal bytes, lookups and transcription.

The map comes from pages of one seed, the questions from pages of another; the model was trained on neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.report import Recorder, wilson
from headmap.engine.greedy import generate_greedy
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel, load_model
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS
from headmap.kvcache.plan import KVRequest
from headmap.models import find_model
from headmap.scoring.pages import Page, make_page
from headmap.scoring.profile import score_pages, transcription_prompt
from headmap.settings import DEMO_MODEL, Settings

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
MAP_SEED, QUESTION_SEED = 11, 12
MAX_ANSWER_TOKENS = 16


def run(
    *,
    record: Recorder,
    pages: int = 50,
    map_pages: int = 40,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = tuple(METHODS),
    batch: int = 8,
) -> dict[str, Any]:
    """Measure; `pages` held-out pages give up to four lookups each and one transcription."""
    loaded = load_model(find_model(DEMO_MODEL, Settings()))
    scores = profile(loaded, MAP_SEED, map_pages)
    drawn = [make_page(QUESTION_SEED, index) for index in range(pages)]
    lookups = [(lookup_prompt(loaded, page, q.question), q.answer) for page in drawn for q in page.questions]
    reading = [(transcription_prompt(loaded, page), page.text) for page in drawn]
    settings = {"model": loaded.info.revision, "pages": pages, "map_pages": map_pages, "question_seed": QUESTION_SEED}
    record.begin("accuracy", settings)
    for method in methods:
        for ratio in (1.0,) if method == "full" else [r for r in ratios if r < 1]:
            kv = KVRequest(method, ratio=ratio)
            answers = answer(loaded, [prompt for prompt, _ in lookups], kv, scores, MAX_ANSWER_TOKENS, batch)
            right = sum(said == expected for said, (_, expected) in zip(answers, lookups, strict=True))
            longest = max(len(text) for _, text in reading) + 16
            texts = answer(loaded, [prompt for prompt, _ in reading], kv, scores, longest, batch)
            alike = [similarity(said, text) for said, (_, text) in zip(texts, reading, strict=True)]
            low, high = wilson(right, len(lookups))
            record.add(
                {
                    "method": method, "ratio": ratio, "lookups": len(lookups), "right": right,
                    "accuracy": right / len(lookups), "accuracy_low": low, "accuracy_high": high,
                    "transcription": float(np.mean(alike)),
                    "transcription_se": float(np.std(alike, ddof=1) / len(alike) ** 0.5) if len(alike) > 1 else 0.0,
                },
                f"{method:10} {ratio:5.0%}  lookups {right / len(lookups):6.1%}  characters {np.mean(alike):6.1%}",
            )  # fmt: skip
    mean_prompt = float(np.mean([prompt.prompt_tokens for prompt, _ in lookups]))
    return record.end(mean_prompt_tokens=mean_prompt, top5_share=scores.top_share(0.05))


def profile(loaded: LoadedModel, seed: int, pages: int, first: int = 0) -> HeadScores:
    """The head map of a loaded model from made-up pages."""
    return HeadScores(page_matrices(loaded, seed, pages, first).sum(0), loaded.info.num_kv_heads)


def page_matrices(loaded: LoadedModel, seed: int, pages: int, first: int = 0) -> npt.NDArray[np.float64]:
    """(pages, num_layers, num_heads) float64: the scores from each page."""
    drawn = (make_page(seed, index) for index in range(first, first + pages))
    return np.stack([page.scores for page in score_pages(loaded, drawn, max_new_tokens=256, batch=8)])


def lookup_prompt(loaded: LoadedModel, page: Page, question: str) -> PreparedPrompt:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return loaded.prepare([{"role": "user", "content": content}], [page.image])


def answer(
    loaded: LoadedModel,
    prompts: Sequence[PreparedPrompt],
    kv: KVRequest,
    scores: HeadScores,
    max_new_tokens: int,
    batch: int = 8,
) -> list[str]:
    """Greedy answers as text, `batch` prompts at a time."""
    texts = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        for tokens in generate_greedy(loaded, part, max_new_tokens=max_new_tokens, kv=kv, scores=scores):
            texts.append(loaded.decode(tokens))
    return texts


def similarity(said: str, text: str) -> float:
    """Share of the page's characters found in order, less invented ones: twice the matches over both lengths."""
    return SequenceMatcher(None, said, text, autojunk=False).ratio()
