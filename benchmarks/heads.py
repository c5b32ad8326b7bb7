"""The paper's findings: sparsity of the map, its stability, and the effect of masking heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import MAX_ANSWER_TOKENS, page_matrices, questions_of
from benchmarks.report import Recorder
from headmap.engine.greedy import generate_greedy
from headmap.evaluation.intervals import wilson
from headmap.evaluation.runner import question_prompt
from headmap.families.loading import LoadedModel, load_model
from headmap.head_scores import HeadScores, compare
from headmap.kvcache.transformers.head_masks import HeadMask
from headmap.models import find_model
from headmap.settings import DEMO_MODEL, Settings

MAP_SEED = 11
SHARES = (0.01, 0.05, 0.1)
Head = tuple[int, int]


def run(
    *,
    record: Recorder,
    model: str = DEMO_MODEL,
    pages: int = 50,
    map_pages: int = 40,
    masked_shares: Sequence[float] = (0.05, 0.1, 0.2),
    draws: int = 10,
) -> dict[str, Any]:
    loaded = load_model(find_model(model, Settings(models=(model,))))
    settings = {"name": model, "model": loaded.info.revision, "pages": pages, "map_pages": map_pages, "draws": draws}
    record.begin("heads", settings)
    halves = [page_matrices(loaded, MAP_SEED, map_pages, first=start) for start in (0, map_pages)]
    kv_heads = loaded.info.num_kv_heads
    scores = HeadScores(halves[0].sum(0), kv_heads)
    for share in SHARES:
        heads, held = len(scores.top_heads(share)), scores.top_share(share)
        row = {"what": "sparsity", "share": share, "heads": heads, "held": held}
        record.add(row, f"the top {share:.0%}, {heads} of {scores.matrix.size} heads, hold {held:.1%} of the score")
    alike = {"what": "stability", **stability(halves[0], halves[1], kv_heads)}
    record.add(alike, f"two sets of {map_pages} pages: rank correlation {alike['spearman']:.3f}")
    prompts = [(question_prompt(loaded, one), one.answers[0]) for one in questions_of("lookup", pages)]
    for share in (0.0, *masked_shares):
        for name, masks in choices(scores, share, draws).items():
            right = [_right(loaded, prompts, mask) for mask in masks]
            total = len(prompts) * len(masks)
            low, high = wilson(sum(right), total)
            record.add(
                {"what": "masking", "share": share, "heads": len(masks[0]), "masked": name,
                 "accuracy": sum(right) / total, "accuracy_low": low, "accuracy_high": high, "lookups": len(prompts),
                 "draws": len(masks), "worst_draw": min(right) / len(prompts), "best_draw": max(right) / len(prompts)},
                f"masked {share:4.0%} {name:22} accuracy {sum(right) / total:.1%}",
            )  # fmt: skip
    return record.end()


def stability(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], kv_heads: int, resamples: int = 1000
) -> dict[str, float]:
    """How alike the maps of two sets of pages are, each figure with its 95 % interval: bootstrap over the pages.

    `first`, `second`: (pages, num_layers, num_heads), a score each. A page drawn twice counts twice, so a resample has
    fewer distinct pages than the set: with few pages the intervals are too low.
    """

    def alike(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> dict[str, float]:
        return asdict(compare(HeadScores(a.sum(0), kv_heads), HeadScores(b.sum(0), kv_heads)))

    rng = np.random.default_rng(0)
    drawn = [
        alike(first[rng.integers(len(first), size=len(first))], second[rng.integers(len(second), size=len(second))])
        for _ in range(resamples)
    ]
    found = alike(first, second)
    for name in list(found):
        low, high = np.quantile([one[name] for one in drawn], (0.025, 0.975))
        found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


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
