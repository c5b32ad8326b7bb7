"""The paper's findings on the bundled model: sparsity of the map, its stability, and what masking heads does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy import MAX_ANSWER_TOKENS, QUESTION_SEED, lookup_prompt, profile
from benchmarks.report import document, wilson
from headmap.families.loading import LoadedModel, load_model
from headmap.generation.batch import generate_greedy
from headmap.head_scores import HeadScores, compare
from headmap.kvcache.masking import HeadMask
from headmap.models import find_model
from headmap.scoring.pages import make_page
from headmap.settings import DEMO_MODEL, Settings

MAP_SEED = 11
SHARES = (0.01, 0.05, 0.1)
Head = tuple[int, int]


def run(
    *,
    pages: int = 25,
    map_pages: int = 40,
    masked_shares: Sequence[float] = (0.05, 0.1, 0.2),
    draws: int = 5,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    loaded = load_model(find_model(DEMO_MODEL, Settings()))
    first, second = (profile(loaded, MAP_SEED, map_pages, first=start) for start in (0, map_pages))
    rows: list[dict[str, Any]] = [
        {"what": "sparsity", "share": share, "held": first.top_share(share)} for share in SHARES
    ]
    alike = compare(first, second)
    rows.append(
        {"what": "stability", "spearman": alike.spearman, "top5pct_overlap": alike.top5pct_overlap,
         "top10pct_overlap": alike.top10pct_overlap, "total_variation": alike.total_variation}
    )  # fmt: skip
    progress(f"top 5 % hold {first.top_share(0.05):.0%}; two halves: rank correlation {alike.spearman:.2f}")
    questions = [(page, q) for page in (make_page(QUESTION_SEED, i) for i in range(pages)) for q in page.questions]
    prompts = [(lookup_prompt(loaded, page, q.question), q.answer) for page, q in questions]
    for share in (0.0, *masked_shares):
        for name, masks in choices(first, share, draws).items():
            right = sum(_right(loaded, prompts, mask) for mask in masks)
            total = len(prompts) * len(masks)
            low, high = wilson(right, total)
            rows.append(
                {"what": "masking", "share": share, "heads": len(masks[0]), "masked": name,
                 "accuracy": right / total, "accuracy_low": low, "accuracy_high": high, "draws": len(masks)}
            )  # fmt: skip
            progress(f"masked {share:4.0%} {name:22} accuracy {right / total:.1%}")
    settings = {"model": loaded.info.revision, "pages": pages, "map_pages": map_pages}
    return document("heads", settings, rows)


def choices(scores: HeadScores, share: float, draws: int) -> dict[str, list[list[Head]]]:
    """Which heads to mask: the top ones, random others, and random others from the same layers."""
    if share == 0:
        return {"none": [[]]}
    top = scores.top_heads(share)
    rng = np.random.default_rng(0)
    others = [(la, h) for la in range(scores.num_layers) for h in range(scores.num_heads) if (la, h) not in top]
    result = {"top": [top], "random": [], "random, same layers": []}
    for _ in range(draws):
        picked = rng.choice(len(others), size=len(top), replace=False)
        result["random"].append([others[index] for index in picked])
        result["random, same layers"].append(_layer_matched(top, others, rng))
    return result


def _layer_matched(top: Sequence[Head], others: Sequence[Head], rng: np.random.Generator) -> list[Head]:
    """As many heads of each layer as `top` has there, or all that are left of it."""
    picked: list[Head] = []
    for layer in sorted({layer for layer, _ in top}):
        here = [head for head in others if head[0] == layer]
        wanted = min(sum(la == layer for la, _ in top), len(here))
        picked += [here[index] for index in rng.choice(len(here), size=wanted, replace=False)]
    return picked


def _right(loaded: LoadedModel, prompts: Sequence[tuple[Any, str]], heads: Sequence[Head]) -> int:
    right = 0
    for start in range(0, len(prompts), 8):
        part = prompts[start : start + 8]
        answers = generate_greedy(
            loaded, [prompt for prompt, _ in part], max_new_tokens=MAX_ANSWER_TOKENS, mask=HeadMask(heads)
        )
        right += sum(loaded.decode(tokens) == expected for tokens, (_, expected) in zip(answers, part, strict=True))
    return right
