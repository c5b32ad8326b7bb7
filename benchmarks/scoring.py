"""Pages per minute: our profiler against the plain loop that the public one runs, and two workers against one.

The plain loop (`benchmarks/plain.py`) and ours follow rule `paper` on the same pages, in turn, and must find the same
hits. `passes` says how far ours is from what any exact scorer must do: one forward of the model over prompt and answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.plain import plain_page
from benchmarks.report import Recorder
from benchmarks.widened import widened
from benchmarks.workers import workers_rows
from headmap.families.loading import LoadedModel, load_model
from headmap.kvcache.attention import use_headmap_attention
from headmap.models import find_model
from headmap.scoring.pages import Page, make_page
from headmap.scoring.profile import PageScores, score_pages, transcription_prompt
from headmap.settings import DEMO_MODEL, Settings

SEED = 13

T = TypeVar("T")


def run(
    *,
    record: Recorder,
    pages: int = 16,
    batch: int = 8,
    max_new_tokens: int = 256,
    wide_pages: int = 3,
    endless_tokens: int = 512,
    job_pages: int = 96,
) -> dict[str, Any]:
    """`endless_tokens` is the length of an answer that does not stop; 0 leaves that case out."""
    info = find_model(DEMO_MODEL, Settings())
    small = load_model(info)
    drawn = [make_page(SEED, index) for index in range(pages)]
    record.begin("scoring", {"model": info.revision, "pages": pages, "batch": batch, "rule": "paper"})
    _case(record, "bundled model, 2 M", small, drawn, batch, max_new_tokens)
    wide = widened(small)
    _case(record, "0.5 B shape", wide, drawn[:wide_pages], batch, max_new_tokens)
    if endless_tokens:
        endless = replace(wide, eos_token_ids=frozenset[int]())
        _case(record, "0.5 B shape, does not stop", endless, drawn[:1], 1, endless_tokens)
    del wide
    return record.end(workers=workers_rows(job_pages, progress=record.say))


def _case(
    record: Recorder,
    name: str,
    loaded: LoadedModel,
    pages: Sequence[Page],
    batch: int,
    max_new_tokens: int,
) -> None:
    """A few pages at a time: ours, the plain way, a bare forward."""
    _ours(loaded, pages[:1], 1, 4), _plain(loaded, pages[:1], 2)  # warm up
    took: dict[str, list[float]] = {"ours": [], "plain": [], "forward": []}
    prompt_tokens, answers, hits, same = [], [], 0, True
    for start in range(0, len(pages), batch):
        part = pages[start : start + batch]
        scored = _timed(took["ours"], partial(_ours, loaded, part, batch, max_new_tokens))
        plain = _timed(took["plain"], partial(_plain, loaded, part, max_new_tokens))
        _timed(took["forward"], partial(_forward, loaded, part, [answer for _, answer in plain]))
        same &= all(np.array_equal(one.scores, other) for one, (other, _) in zip(scored, plain, strict=True))
        hits += sum(page.hits for page in scored)
        prompt_tokens += [transcription_prompt(loaded, page).prompt_tokens for page in part]
        answers += [len(answer) for _, answer in plain]
    total = {kind: sum(seconds) for kind, seconds in took.items()}
    row = {
        "model": name, "pages": len(pages), "prompt_tokens": median(prompt_tokens), "answer_tokens": median(answers),
        "ours_pages_per_minute": len(pages) / total["ours"] * 60,
        "plain_pages_per_minute": len(pages) / total["plain"] * 60, "speedup": total["plain"] / total["ours"],
        "passes": total["ours"] / total["forward"], "same_scores": same, "hits": hits,
    }  # fmt: skip
    record.add(row, f"{name}: x{row['speedup']:.1f}, same scores: {same}")


def _timed(seconds: list[float], work: Callable[[], T]) -> T:
    began = perf_counter()
    result = work()
    seconds.append(perf_counter() - began)
    return result


def _ours(loaded: LoadedModel, pages: Sequence[Page], batch: int, max_new_tokens: int) -> list[PageScores]:
    loaded.model.set_attn_implementation("sdpa")
    use_headmap_attention(loaded.model)
    return list(score_pages(loaded, pages, rule="paper", max_new_tokens=max_new_tokens, batch=batch))


def _plain(loaded: LoadedModel, pages: Sequence[Page], max_new_tokens: int) -> list[tuple[np.ndarray, list[int]]]:
    loaded.model.set_attn_implementation("eager")
    return [plain_page(loaded, page, max_new_tokens) for page in pages]


@torch.inference_mode()
def _forward(loaded: LoadedModel, pages: Sequence[Page], answers: Sequence[list[int]]) -> None:
    """Transformers' own forward over prompt and answer, nothing looked at."""
    loaded.model.set_attn_implementation("sdpa")
    for page, answer in zip(pages, answers, strict=True):
        prompt = transcription_prompt(loaded, page)
        fed = torch.cat([prompt.inputs["input_ids"], torch.tensor([answer[:-1]], dtype=torch.int64)], dim=1)
        after = torch.arange(prompt.next_position, prompt.next_position + len(answer) - 1)
        positions = torch.cat([prompt.position_ids, after.expand(*prompt.position_ids.shape[:-1], -1)], dim=-1)
        inputs = {**prompt.inputs, "input_ids": fed}
        loaded.model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=len(answer))
