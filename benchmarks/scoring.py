"""Pages per minute: our profiler against the plain loop that the public one runs, and two workers against one.

The plain loop (`benchmarks/plain.py`) and ours follow rule `paper` on the same pages, in turn, and must find the same
hits; in bfloat16 nearly the same, since products of other sizes round differently. The plain loop runs on torch's own
number of threads, as it comes, and on one; a small model's is faster so.

Every exact scorer must run the model over prompt and answer once. That bare forward is measured in every way that ours
could go: on torch's threads, on one, and in lanes. `passes` is our time in the fastest of them; `limit`, the plain
loop's best time in it, is the largest ratio that any exact scorer can reach on this machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.plain import plain_page
from benchmarks.report import Recorder, fast_bfloat16
from benchmarks.widened import widened
from benchmarks.workers import workers_rows
from headmap.families.loading import LoadedModel, load_model
from headmap.kvcache.transformers.attention import use_headmap_attention
from headmap.models import find_model
from headmap.scoring.lanes import in_lanes
from headmap.scoring.pages import Page, make_page
from headmap.scoring.profile import score_pages, transcription_prompt
from headmap.scoring.visual_heads import PageScores
from headmap.settings import DEMO_MODEL, Settings

SEED = 13

T = TypeVar("T")


def run(
    *,
    record: Recorder,
    pages: int = 16,
    batch: int = 8,
    max_new_tokens: int = 256,
    wide_pages: int = 4,
    endless_tokens: int = 256,
    job_pages: int = 96,
) -> dict[str, Any]:
    """`endless_tokens` is the length of an answer that does not stop; 0 leaves that case out."""
    info = find_model(DEMO_MODEL, Settings())
    small = load_model(info)
    drawn = [make_page(SEED, index) for index in range(pages)]
    threads = (torch.get_num_threads(), 1)
    record.begin("scoring", {"model": info.revision, "pages": pages, "batch": batch, "rule": "paper"})
    _case(record, "bundled model, 2 M", small, drawn, batch, max_new_tokens, threads)
    wide = widened(small)
    best = _case(record, "0.5 B shape", wide, drawn[:wide_pages], batch, max_new_tokens, threads)
    if endless_tokens:
        endless = replace(wide, eos_token_ids=frozenset[int]())
        _case(record, "0.5 B shape, does not stop", endless, drawn[:wide_pages], batch, endless_tokens, (best,))
    if fast_bfloat16():
        torch.nn.Module.to(wide.model, torch.bfloat16)
        _case(record, "0.5 B shape, bfloat16", wide, drawn[:wide_pages], batch, max_new_tokens, threads)
    del wide
    return record.end(workers=workers_rows(job_pages, progress=record.say))


def _case(
    record: Recorder,
    name: str,
    loaded: LoadedModel,
    pages: Sequence[Page],
    batch: int,
    max_new_tokens: int,
    threads: Sequence[int],
) -> int:
    """A few pages at a time: ours, the plain way on each number of `threads`, bare forwards.

    Returns the number of threads on which the plain way was fastest.
    """
    _ours(loaded, pages[:1], 1, 4), _plain(loaded, pages[:1], 2)  # warm up
    ours: list[float] = []
    plain: dict[int, list[float]] = {count: [] for count in threads}
    forward: dict[str, list[float]] = {}
    prompt_tokens, answers, hits, same = [], [], 0, True
    maps = np.zeros((2, loaded.info.num_layers, loaded.info.num_heads))
    for start in range(0, len(pages), batch):
        part = pages[start : start + batch]
        scored = _timed(ours, partial(_ours, loaded, part, batch, max_new_tokens))
        for count, seconds in plain.items():
            with torch_threads(count):
                found = _timed(seconds, partial(_plain, loaded, part, max_new_tokens))
            same &= all(np.array_equal(one.scores, other) for one, (other, _) in zip(scored, found, strict=True))
        maps[0] += np.sum([one.scores for one in scored], axis=0)
        maps[1] += np.sum([other for other, _ in found], axis=0)
        read = [answer for _, answer in found]
        for kind, bare in _bare(loaded, part, read).items():
            _timed(forward.setdefault(kind, []), bare)
        hits += sum(page.hits for page in scored)
        prompt_tokens += [transcription_prompt(loaded, page).prompt_tokens for page in part]
        answers += [len(answer) for answer in read]
    by_threads = {count: sum(seconds) for count, seconds in plain.items()}
    took, best = sum(ours), min(by_threads, key=lambda count: by_threads[count])
    default, least = by_threads[threads[0]], min(map(sum, forward.values()))
    row = {
        "model": name, "pages": len(pages), "prompt_tokens": median(prompt_tokens), "answer_tokens": median(answers),
        "ours_pages_per_minute": len(pages) / took * 60,
        "plain_pages_per_minute": len(pages) / default * 60,
        "speedup": default / took, "limit_default": default / least,
        "plain_best_threads": best, "speedup_best": by_threads[best] / took, "limit": by_threads[best] / least,
        "passes": took / least, "same_scores": same, "correlation": float(np.corrcoef(*maps.reshape(2, -1))[0, 1]),
        "hits": hits,
    }  # fmt: skip
    record.add(row, f"{name}: x{row['speedup']:.1f} of at most {row['limit_default']:.1f}, same scores: {same}")
    return best


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _bare(loaded: LoadedModel, pages: Sequence[Page], answers: Sequence[list[int]]) -> dict[str, Callable[[], None]]:
    """The ways to run one bare forward over each page and its answer."""
    loaded.model.set_attn_implementation("sdpa")
    fed = list(zip(pages, answers, strict=True))

    def in_turn() -> None:
        for one in fed:
            _forward(loaded, *one)

    def alone() -> None:
        with torch_threads(1):
            in_turn()

    def lanes() -> None:
        deque(in_lanes(fed, lambda one, _: _forward(loaded, *one), lanes=torch.get_num_threads(), on_step=lambda: None))

    return {"threads": in_turn, "one thread": alone, "lanes": lanes}


@torch.inference_mode()
def _forward(loaded: LoadedModel, page: Page, answer: Sequence[int]) -> None:
    """Transformers' own forward over prompt and answer, nothing looked at."""
    prompt = transcription_prompt(loaded, page)
    fed = torch.cat([prompt.inputs["input_ids"], torch.tensor([answer[:-1]], dtype=torch.int64)], dim=1)
    after = torch.arange(prompt.next_position, prompt.next_position + len(answer) - 1)
    positions = torch.cat([prompt.position_ids, after.expand(*prompt.position_ids.shape[:-1], -1)], dim=-1)
    inputs = {**prompt.inputs, "input_ids": fed}
    loaded.model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=len(answer))
