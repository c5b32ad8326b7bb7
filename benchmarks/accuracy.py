"""Accuracy against memory: every method and selector at equal bytes, questions and transcription of made-up pages.

The map comes from `synthetic` pages of one seed, the questions from pages of another; our models were trained on
neither. Questions are asked and marked as `headmap evaluate` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import cycle
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from benchmarks.report import Recorder
from headmap.datasets.sources import DEFAULT, MADE_UP, MadeUpPages
from headmap.demo.phrases import HELD_OUT_SUFFIXES
from headmap.evaluation.answers import AnswerRow
from headmap.evaluation.cases import make_cases
from headmap.evaluation.intervals import wilson
from headmap.evaluation.metrics import Metric, get_metric
from headmap.evaluation.questions import PageQuestions, Question
from headmap.evaluation.runner import evaluate_questions
from headmap.families.loading import LoadedModel, load_model
from headmap.head_scores import HeadScores
from headmap.kvcache.methods import METHODS
from headmap.kvcache.select import Select
from headmap.models import find_model
from headmap.scoring.pages import make_page
from headmap.scoring.profile import score_pages
from headmap.settings import DEMO_MODEL, Settings

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
MAP_SEED, QUESTION_SEED = 11, 12
MAX_ANSWER_TOKENS = 24
COUNT_PROMPT = "How many lines of text are in this image?"

Kind = Literal["lookup", "suffix", "text-first", "counting"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""A value on the page, after the picture; the same with a sentence about the answer's form after the question; the same
with the text before the picture; how many lines there are."""


class CharactersFound(Metric):
    """Share of the page's characters found in order, less invented ones: twice the matches over both lengths."""

    name = "characters"
    most = 1

    def score(self, answer: str, expected: Sequence[str]) -> float:
        return SequenceMatcher(None, answer, expected[0], autojunk=False).ratio()


def run(
    *,
    record: Recorder,
    model: str = DEMO_MODEL,
    dataset: str = DEFAULT,
    pages: int = 50,
    read_pages: int | None = None,
    map_pages: int = 40,
    ratios: Sequence[float] = RATIOS,
    methods: Sequence[str] = tuple(METHODS),
    selectors: Sequence[str | Select] = ("snapkv",),
    kinds: Sequence[Kind] = ("lookup",),
    seed: int = QUESTION_SEED,
    batch: int = 8,
) -> dict[str, Any]:
    """Measure methods at equal bytes. All have SnapKV's selector unless told, so they differ in budgets alone.

    `pages` held-out pages of `seed` give up to four questions each of every kind, one for `counting`. `read_pages` give
    a transcription each, after the picture or before it.
    """
    loaded = load_model(find_model(model, Settings(models=(model,))))
    scores = profile(loaded, MAP_SEED, map_pages)
    read_pages = pages if read_pages is None else read_pages
    settings = {
        "name": model, "model": loaded.info.revision, "dataset": dataset, "pages": pages, "read_pages": read_pages,
        "map_pages": map_pages, "question_seed": seed,
    }  # fmt: skip
    record.begin("accuracy", settings)
    cases = make_cases(methods, [ratio for ratio in ratios if ratio < 1], selectors)

    def ask(questions: Sequence[Question], metric: Metric, most: int) -> list[AnswerRow]:
        return evaluate_questions(loaded, questions, cases, scores, metric, max_new_tokens=most, batch=batch)

    prompt_tokens: list[int] = []
    for kind in kinds:
        questions, reading = questions_of(kind, pages, seed, dataset), readings_of(kind, read_pages, seed, dataset)
        found = ask(questions, get_metric("exact"), MAX_ANSWER_TOKENS)
        longest = max((len(one.answers[0]) for one in reading), default=0)
        read = ask(reading, CharactersFound(), longest + 16)
        prompt_tokens += [row.prompt_tokens for row in found]
        for case in cases:
            right = sum(row.score == 1 for row in found if row.case == case)
            alike = [row.score for row in read if row.case == case]
            low, high = wilson(right, len(questions))
            found_share = {"transcription": float(np.mean(alike))} if alike else {}
            record.add(
                {
                    **case.to_json(), "kind": kind, "lookups": len(questions), "right": right,
                    "accuracy": right / len(questions), "accuracy_low": low, "accuracy_high": high,
                    **found_share,
                    "transcription_se": float(np.std(alike, ddof=1) / len(alike) ** 0.5) if len(alike) > 1 else 0.0,
                },
                f"{kind:10} {case!s:28} {case.ratio:5.0%}  right {right / len(questions):6.1%}"
                + "".join(f"  characters {share:6.1%}" for share in found_share.values()),
            )  # fmt: skip
    return record.end(mean_prompt_tokens=float(np.mean(prompt_tokens)), top5_share=scores.top_share(0.05))


def questions_of(kind: Kind, pages: int, seed: int = QUESTION_SEED, dataset: str = DEFAULT) -> list[Question]:
    """Return questions of one kind about the first `pages` held-out pages."""
    drawn = [MADE_UP[dataset](seed, index) for index in range(pages)]
    if kind == "counting":
        return [
            Question(f"{number}", COUNT_PROMPT, (page.image,), (str(len(page.text.splitlines())),))
            for number, page in enumerate(drawn)
        ]
    made_up = PageQuestions(MadeUpPages(MADE_UP[dataset]))
    asked = list(made_up.questions(seed, 0, sum(len(page.questions) for page in drawn)))
    if kind == "suffix":
        suffixes = cycle(HELD_OUT_SUFFIXES)
        return [replace(one, text=f"{one.text}\n{suffix}") for one, suffix in zip(asked, suffixes, strict=False)]
    return [replace(one, text_first=kind == "text-first") for one in asked]


def readings_of(kind: Kind, pages: int, seed: int, dataset: str) -> list[Question]:
    """Return the questions of one kind that ask for a page's whole text; some kinds have none."""
    if kind not in ("lookup", "text-first"):
        return []
    made_up = PageQuestions(MadeUpPages(MADE_UP[dataset]), transcribe=True)
    return [replace(one, text_first=kind == "text-first") for one in made_up.questions(seed, 0, pages)]


def profile(loaded: LoadedModel, seed: int, pages: int, first: int = 0) -> HeadScores:
    """The head map of a loaded model from made-up pages."""
    return HeadScores(page_matrices(loaded, seed, pages, first).sum(0), loaded.info.num_kv_heads)


def page_matrices(loaded: LoadedModel, seed: int, pages: int, first: int = 0) -> npt.NDArray[np.float64]:
    """(pages, num_layers, num_heads) float64: the scores from each page."""
    drawn = (make_page(seed, index) for index in range(first, first + pages))
    return np.stack([page.scores for page in score_pages(loaded, drawn, max_new_tokens=256, batch=8)])
